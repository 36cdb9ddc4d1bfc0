"""Text around the cursor that is ever shorter, and the end of an infilled answer: `/infill` as llama.cpp defines it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from kdtool_command_serve.parameters import Infill
from kdtool_command_serve.units import find_outdent

__all__ = ["End", "shorten"]

_LEAST = 64
"""Characters around the cursor that are not shortened further."""


def shorten(before: str, after: str, others: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the text before and after the cursor: whole, without the text of `others`, then ever nearer to it."""
    if others:
        yield "".join(f"{other}\n\n" for other in others) + before, after
    yield before, after
    while len(before) + len(after) > _LEAST:
        before, after = before[(len(before) + 1) // 2 :], after[: len(after) // 2]
        yield before, after


class End:
    """Ends an answer before a line that is indented less than `n_indent`, or at a line's end after `t_max_predict_ms`."""

    def __init__(self, given: Infill) -> None:
        self._indent = given.n_indent
        self._seconds = max(0, given.t_max_predict_ms) / 1000
        self._began = 0.0

    def find_end(self, text: str) -> int | None:
        """Return how many characters of the answer so far are kept if it ends here, else None."""
        self._began = self._began or time.perf_counter()
        if (kept := find_outdent(text, self._indent)) is not None:
            return kept
        late = self._seconds and time.perf_counter() - self._began > self._seconds
        return text.rindex("\n") if late and "\n" in text else None
