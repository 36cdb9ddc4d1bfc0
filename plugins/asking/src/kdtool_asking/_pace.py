"""Lines on the progress of a corpus that asks a teacher for hours."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pace"]

SECONDS = 30.0
"""Time between two lines."""


class Pace:
    """Shows a line every half minute, with the time left at the speed since the last one.

    Args:
        say: shows a line.
        now: the clock, in seconds.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._say, self._now = say, now
        self._shown, self._share = now(), 0.0

    def is_due(self) -> bool:
        """Return whether half a minute has passed since the last line."""
        return self._now() - self._shown >= SECONDS

    def show(self, text: str, share: float) -> None:
        """Show a line; `share` is the part of the work that is done, from 0 to 1."""
        now, gained = self._now(), share - self._share
        if gained > 0:
            text += f", {_duration((1 - min(1.0, share)) * (now - self._shown) / gained)} left at this speed"
        self._shown, self._share = now, share
        self._say(text)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
