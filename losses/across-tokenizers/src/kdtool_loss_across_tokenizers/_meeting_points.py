"""Places at which two ways of cutting the same bytes meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["meeting_points"]


def meeting_points(own: Sequence[int], other: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (i, j) where own[i] equals other[j], in order, each index once; both sequences never fall.

    Given two tokenizers' ends of tokens in one document it gives the tokens that end together: from one pair to the next,
    both sides stand for the same bytes.
    """
    i = j = 0
    while i < len(own) and j < len(other):
        if own[i] == other[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif own[i] < other[j]:
            i += 1
        else:
            j += 1
