"""Read a text that is longer than a model's context: in windows that advance by half."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Window", "windows"]


class Window(NamedTuple):
    """Tokens `start:stop` are read; predictions before `scored` were made in an earlier window."""

    start: int
    scored: int
    stop: int


def windows(count: int, size: int, done: int = 0) -> Iterator[Window]:
    """Divide `count` predictions into windows of at most `size` tokens that advance by half.

    Each prediction is made once, in the first window that holds it, with at least half a window before it (if the text
    is that long). Prediction n is of token n + 1 of the text. The first `done` predictions are not made.
    """
    start, scored = 0, done
    while scored < count:
        stop = min(start + size, count)
        yield Window(start, scored, stop)
        scored, start = stop, start + max(1, size // 2)
