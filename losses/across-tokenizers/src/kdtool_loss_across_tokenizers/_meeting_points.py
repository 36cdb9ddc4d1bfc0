"""Points at which two ways of cutting the same bytes meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["meeting_points"]


def meeting_points(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (i, j) for which first[i] equals second[j], in order, each index once; neither sequence may descend.

    Given two tokenizers' ends of tokens in one document, it yields the tokens that end together: from one pair to the next,
    both sides stand for the same bytes.
    """
    i = j = 0
    while i < len(first) and j < len(second):
        if first[i] == second[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif first[i] < second[j]:
            i += 1
        else:
            j += 1
