"""When to send: pace by the service's limits, concurrency that adapts, waiting if the service asks for it.

`Limiter` is used inside one event loop. Rates come from the response headers before any request is refused; a refusal
halves nothing twice: of a burst of refusals only the first counts. Concurrency grows by one for each full window of
answers up to the ceiling of the last refusal, and then ten times slower, to 10 % above it at most.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

__all__ = ["Limiter", "Permit", "retry_after"]

_SHARE = 0.98
"""Share of a limit that is used: clocks differ."""
_LEAST_SHARE = 0.1
_CATCH_UP = 0.5
"""Seconds of the limit that may be sent at once after the pace was too slow."""
_CUT = 0.7
_ABOVE_CEILING = 1.1
_RECOVERS = 60.0
"""Seconds without a refusal in which a reduced rate is back, and the ceiling forgotten."""
_FAILURES = 8
"""Failures in a row that open the circuit."""
_LONGEST_WAIT = 600.0
_LIMITS = ("requests", "input-tokens", "output-tokens")


@dataclass
class _Pace:
    """Spreads `per_minute` units evenly. The next may be sent from the time `free` on."""

    per_minute: float
    free: float = 0.0

    def take(self, amount: float, share: float, now: float) -> None:
        self.free = max(self.free, now - _CATCH_UP) + 60 * amount / (self.per_minute * share)


@dataclass(frozen=True)
class Permit:
    """Allows to send a request: when it began, and the tokens that it was counted with."""

    begun: float
    tokens_in: int
    tokens_out: int


class Limiter:
    """Decides when requests may be sent.

    Args:
        concurrency: requests under way at most.
        requests_per_minute: the user's own limit; None for only the service's.
        now: seconds that only grow.
        sleep: waits for the given number of seconds.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: int | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._most = concurrency
        self._own = requests_per_minute
        self._now, self._sleep = now, sleep
        self._paces: dict[str, _Pace] = {}
        if requests_per_minute:
            self._paces["requests"] = _Pace(requests_per_minute)
        self._window, self._ceiling = float(min(concurrency, 8)), float(concurrency)
        self._share = _SHARE
        self._under_way = 0
        self._held_until = 0.0
        self._refused_at = float("-inf")
        self._failures = self._openings = 0
        self._silent_since: float | None = None
        self._gate = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def requests_per_minute(self) -> float:
        """The limit in force; 0 while none is known."""
        pace = self._paces.get("requests")
        return pace.per_minute if pace else 0.0

    @property
    def openings(self) -> int:
        """Times in a row that the circuit opened without an answer since."""
        return self._openings

    @property
    def silence(self) -> float:
        """Seconds since the first of the refusals after which nothing was answered; 0 without any."""
        return 0.0 if self._silent_since is None else self._now() - self._silent_since

    async def acquire(self, tokens_in: int, tokens_out: int) -> Permit:
        """Wait until a request may be sent, in the order of the calls. End it by one of the methods below."""
        async with self._gate:
            while self._under_way >= self._slots():
                self._changed.clear()
                await self._changed.wait()
            while (wait := self._wait()) > 0:
                await self._sleep(min(wait, 5.0))  # limits may change meanwhile
            now = self._now()
            amounts = {"requests": 1, "input-tokens": tokens_in, "output-tokens": tokens_out}
            for name, pace in self._paces.items():
                pace.take(amounts[name], self._rate(), now)
            self._under_way += 1
            return Permit(now, tokens_in, tokens_out)

    def count_answer(self, permit: Permit, headers: Mapping[str, str], tokens_in: int, tokens_out: int) -> None:
        """Count an answer: its headers give the limits, its tokens correct those that were estimated."""
        self._failures = self._openings = 0
        self._silent_since = None
        self.observe(headers)
        for name, by in (
            ("input-tokens", tokens_in - permit.tokens_in),
            ("output-tokens", tokens_out - permit.tokens_out),
        ):
            if name in self._paces:
                self._paces[name].free += 60 * by / (self._paces[name].per_minute * self._rate())
        if self._now() - self._refused_at > _RECOVERS:
            self._ceiling = float(self._most)
        slow = 1.0 if self._window < self._ceiling else 0.1
        self._window = min(self._window + slow / self._window, self._ceiling * _ABOVE_CEILING, float(self._most))
        self._end()

    def count_refusal(self, permit: Permit, headers: Mapping[str, str], *, overloaded: bool = False) -> None:
        """Count a refusal for the rate (429) or for the service's load (529)."""
        self.observe(headers)
        self._silent_since = self._now() if self._silent_since is None else self._silent_since
        if permit.begun > self._refused_at:  # of a burst, only the first
            self._refused_at = self._now()
            self._ceiling = max(1.0, self._window)
            self._window = max(1.0, self._window * _CUT)
            if not overloaded:
                self._share = max(_LEAST_SHARE, self._rate() * _CUT if "requests" in self._paces else self._share)
        asked = retry_after(headers)
        if asked > 0:
            self._held_until = max(self._held_until, self._now() + min(asked, _LONGEST_WAIT))
        if overloaded:
            self._fail()
        self._end()

    def count_failure(self) -> None:
        """Count a request without a usable answer; after several in a row, one at a time is tried, ever more rarely."""
        self._fail()
        self._end()

    def give_back(self) -> None:
        """Count a request that was not sent, or refused for what it asks."""
        self._end()

    def observe(self, headers: Mapping[str, str]) -> None:
        """Take over limits from a response."""
        for name in _LIMITS:
            limit = _number(headers.get(f"anthropic-ratelimit-{name}-limit"))
            if limit is None or limit <= 0:
                continue
            if name == "requests" and self._own:
                limit = min(limit, self._own)
            pace = self._paces.setdefault(name, _Pace(limit, self._now()))
            pace.per_minute = limit
            if _number(headers.get(f"anthropic-ratelimit-{name}-remaining")) == 0:
                pace.free = max(pace.free, self._now() + (60 / limit if name == "requests" else 1.0))

    def _fail(self) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures, self._window = 0, 1.0
            self._openings += 1
            self._held_until = max(self._held_until, self._now() + min(120.0, 2.0**self._openings))

    def _end(self) -> None:
        self._under_way -= 1
        self._changed.set()

    def _slots(self) -> int:
        return int(self._window)

    def _rate(self) -> float:
        """Return the share of the limits that is used: after a refusal it grows back within a minute."""
        since = self._now() - self._refused_at
        return _SHARE if since > _RECOVERS else self._share + (_SHARE - self._share) * max(0.0, since) / _RECOVERS

    def _wait(self) -> float:
        now = self._now()
        return max([self._held_until, *(pace.free for pace in self._paces.values())]) - now


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how long a response asks to wait, in seconds; 0 if it does not."""
    asked = headers.get("retry-after", "")
    if (seconds := _number(asked)) is not None:
        return max(0.0, seconds)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    return 0.0


def _number(text: str | None) -> float | None:
    with suppress(ValueError, TypeError):
        number = float(text or "")
        return number if math.isfinite(number) else None
    return None
