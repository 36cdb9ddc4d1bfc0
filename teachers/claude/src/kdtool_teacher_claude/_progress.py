"""Money, speed and answers of a run, as a line every half minute."""

from __future__ import annotations

import time
from collections.abc import Callable

from kdtool_asking import Ledger

from kdtool_teacher_claude._prices import Usage, dollars

__all__ = ["Progress"]

_SECONDS = 30.0
_RARER = 0.1
"""Part of the time so far that passes between two lines while only batches are under way."""


class Progress:
    """Counts answers, and shows money and speed.

    Args:
        ledger: where money is counted.
        budget: picodollars.
        say: shows a line.
    """

    def __init__(self, ledger: Ledger, budget: int, say: Callable[[str], None]) -> None:
        self._ledger, self._budget, self._say = ledger, budget, say
        self._begun = self._shown = time.monotonic()
        self._before = ledger.spent
        self.answers = self.stored = self.asked_again = 0
        self._tokens = self._input = self._cached = self._output = self._thinking = 0

    def add(self, usage: Usage) -> None:
        """Count an answer that was paid for."""
        self.answers += 1
        self._tokens += usage.tokens_in + usage.output
        self._input += usage.tokens_in
        self._cached += usage.cache_read
        self._output += usage.output
        self._thinking += usage.thinking
        self._show(_SECONDS)

    def wait(self) -> None:
        """Show a line while batches are waited for, ever more rarely."""
        self._show(max(_SECONDS, _RARER * (time.monotonic() - self._begun)))

    def _show(self, seconds: float) -> None:
        """Show a line if the last one is at least `seconds` old."""
        if time.monotonic() - self._shown >= seconds:
            self._shown = time.monotonic()
            self._say(self.line())

    def line(self) -> str:
        """Return figures so far: money of the ledger, speed and cache of this run."""
        minutes = max(time.monotonic() - self._begun, 1.0) / 60
        spent = self._ledger.spent
        parts = [
            f"{self.answers:,} answers",
            f"{dollars(spent)} spent and {dollars(self._ledger.on_hold)} reserved of {dollars(self._budget)}",
            f"{self._tokens / minutes:,.0f} tokens/min",
            f"{self._cached / max(1, self._input):.0%} of the input tokens from the cache",
        ]
        if self._thinking:
            parts.append(f"{self._thinking / self._output:.0%} of the output tokens for thinking")
        if rate := (spent - self._before) / minutes:
            parts.append(f"the budget lasts {(self._budget - spent) / rate:,.0f} min at this speed")
        return "claude: " + ", ".join(parts)

    def end(self) -> None:
        """Show the final figures, if anything was asked."""
        if self.answers:
            self._say(self.line())
        if self.stored:
            self._say(f"claude: {self.stored:,} answers are in {self._ledger.path.name} and are not paid for again")
        if self._ledger.mismatches:
            self._say(
                f"claude: {self._ledger.mismatches:,} answers in {self._ledger.path.name} were changed on disk and are "
                "bought again: their text does not match its hash"
            )
        if self.asked_again:
            self._say(
                f"claude: {self.asked_again:,} requests were asked again, since their outcome is unknown: perhaps charged "
                "twice; the ledger lists them"
            )
