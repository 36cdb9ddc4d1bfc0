"""Prompt lookup: proposes the tokens that followed an earlier occurrence of a text's last tokens.

Code repeats itself: names, calls and indentation of a prompt return in its answer. A forward pass over a few tokens reads
the weights once, as one over a single token does, so each correct proposal saves most of a pass (prompt lookup decoding,
Saxena 2023; `ngram` in vLLM).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["PROPOSED", "PromptLookup"]

PROPOSED = 4
"""Tokens that are proposed at once, by measurement: see docs/benchmarks/serving.md."""
_LENGTHS = (3, 2)
"""Tokens that must repeat, the longest sequence first."""


class PromptLookup:
    """Finds where the last tokens of a growing text occurred before."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Return the tokens after the latest earlier occurrence of the last tokens of `ids`: `most`, fewer, or none.

        `ids` begins with those of the call before.
        """
        for at in range(self._indexed, len(ids)):
            for length in _LENGTHS:
                if at >= length:
                    self._next[tuple(ids[at - length : at])] = at
        self._indexed = len(ids)
        for length in _LENGTHS:
            begin = self._next.get(tuple(ids[-length:]))
            if begin is not None:
                return [*ids[begin : begin + most]]
        return []
