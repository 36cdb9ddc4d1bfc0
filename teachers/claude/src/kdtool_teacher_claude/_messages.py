"""Answers one by one, at the pace that the service allows.

Each attempt is journalled before it is sent, and its answer with its price before anyone gets it.

`Limiter` is used inside one event loop. Rates come from the response headers before any request is refused. After a refusal
nothing is sent for as long as the service asks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import kdtool
from kdtool_measuring import Attempt, Ledger

from kdtool_teacher_claude._client import Client, DoubtfulError, LimitedError, RefusedError, UnreachedError
from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._money import Progress
from kdtool_teacher_claude._requests import Asked, Prices, UnreadableError, picodollars, read_message, refusal, restore

_OPENINGS = 6
"""Openings of the circuit after which the service counts as down: two minutes and more."""
_LONGEST_SILENCE = 900.0
"""Seconds without any answer after which refusals for the rate (429) end the run, too; until then they are waited for."""


class Messages:
    """Asks the Messages API, within the budget and the limits. Used inside one event loop."""

    def __init__(
        self, config: ClaudeConfig, client: Client, ledger: Ledger, prices: Prices, limiter: Limiter, progress: Progress
    ) -> None:
        self._config, self._client, self._ledger, self._prices = config, client, ledger, prices
        self._limiter, self._progress = limiter, progress
        self._budget = picodollars(config.budget_usd)
        self._unknown = Counter(ledger.unknown())
        self._same: dict[str, asyncio.Future[str | None]] = {}
        self._reserved = 0
        self._settled = asyncio.Event()
        self._failure: BaseException | None = None
        self._random = Random()

    def stop(self, failure: BaseException | None = None) -> None:
        """Send nothing more; requests that wait for their turn fail."""
        self._failure = self._failure or failure or asyncio.CancelledError()

    async def answer(self, asked: Asked) -> kdtool.TextAnswer:
        """Return the answer to a request, from the ledger if it is there.

        Raises:
            BudgetError: the next attempt could exceed the budget.
            ServiceError: the service stays down.
        """
        while asked.key in self._same:  # another request with the same content is under way
            if (stored := await self._same[asked.key]) is not None:
                return restore(stored, asked.request)
        if (stored := self._ledger.find(asked.key)) is not None:
            self._progress.stored += 1
            return restore(stored, asked.request)
        under_way = self._same[asked.key] = asyncio.get_running_loop().create_future()
        stored = None
        try:
            reply = await self._ask(asked)
            if isinstance(reply, str):
                stored = reply
                return restore(stored, asked.request)
            return reply
        except BaseException as error:
            self.stop(error)
            raise
        finally:
            del self._same[asked.key]
            under_way.set_result(stored)

    async def _ask(self, asked: Asked) -> str | kdtool.TextAnswer:
        """Return the answer as stored, or a refusal, which is not stored."""
        reason, failures, refusals = "an earlier attempt had no known outcome", 0, 0
        while failures <= self._config.retries:
            if self._unknown[asked.key]:
                if self._config.on_unknown == "skip":
                    why = f"{reason}; it may have been charged, and `on_unknown: skip` does not ask again"
                    return refusal(asked.request, why)
                self._progress.asked_again += 1
            try:
                return await self._attempt(asked)
            except RefusedError as error:
                return refusal(asked.request, str(error))
            except (LimitedError, UnreachedError, DoubtfulError, UnreadableError) as error:
                reason = str(error)
                waits = isinstance(error, LimitedError) and not error.overloaded
            refusals, failures = refusals + waits, failures + (not waits)
            if self._limiter.openings >= _OPENINGS or self._limiter.silence >= _LONGEST_SILENCE:
                break
            if failures <= self._config.retries:
                await asyncio.sleep(self._random.random() * min(30.0, 0.25 * 2 ** min(7, refusals + failures - 1)))
        raise kdtool.ServiceError(
            f"the service fails after {refusals + failures} attempts: {reason}; run again later. Answers so far are kept"
        )

    async def _attempt(self, asked: Asked) -> str:
        permit = await self._limiter.acquire(asked.estimate_in, asked.most_out // 4)
        try:
            if self._failure is not None:
                raise asyncio.CancelledError  # the request that failed has raised it
            attempt = await self._reserve(asked)
            await asyncio.wrap_future(self._ledger.write_intent(attempt))
        except BaseException:
            self._limiter.give_back()
            raise
        try:
            return await self._exchange(asked, attempt, permit)
        finally:
            self._reserved -= 1
            self._settled.set()

    async def _exchange(self, asked: Asked, attempt: Attempt, permit: Permit) -> str:
        """Send the request; record the outcome, also of a failure."""
        try:
            message, headers = await self._client.send(asked.body)
            stored, usage, price = read_message(message, self._prices, batched=False)
        except (RefusedError, LimitedError, UnreachedError, kdtool.KdtoolError) as error:
            if isinstance(error, LimitedError):
                self._limiter.count_refusal(error.headers, overloaded=error.overloaded)
            elif isinstance(error, UnreachedError):
                self._limiter.count_failure()
            else:
                self._limiter.give_back()
            await asyncio.wrap_future(self._ledger.release(attempt, str(error)))
            raise
        except BaseException as error:  # cancelled, too
            self._limiter.count_failure()
            self._unknown[asked.key] += 1
            self._ledger.doubt(attempt, str(error) or type(error).__name__)
            raise
        self._limiter.count_answer(permit, headers, usage.tokens_in - usage.cache_read, usage.output)
        await asyncio.wrap_future(self._ledger.settle(attempt, stored, price, usage.thinking))
        self._progress.add(usage)
        return stored

    async def _reserve(self, asked: Asked) -> Attempt:
        """Set aside the most that the request can cost; wait for others' reservations if that is too much now."""
        marked = bool(asked.prefix)
        bound = self._prices.bound(asked.most_in, asked.most_out, marked=marked, batched=False)
        while (attempt := self._ledger.reserve(asked.key, bound, limit=self._budget, about=asked.about)) is None:
            if not self._reserved:
                raise budget_error(self._ledger, self._budget, bound)
            self._settled.clear()
            await self._settled.wait()
        self._reserved += 1
        return attempt


def budget_error(ledger: Ledger, budget: int, bound: int) -> kdtool.BudgetError:
    """Return the error that ends a run at its budget."""
    return kdtool.BudgetError(
        f"budget_usd: the next request may cost {kdtool.dollars(bound)}, but {kdtool.dollars(ledger.spent)} are spent and "
        f"{kdtool.dollars(ledger.on_hold)} reserved of {kdtool.dollars(budget)}; raise it and run again: stored answers are "
        "not charged again"
    )


_SHARE = 0.98
"""Share of a limit that is used: clocks differ."""
_CATCH_UP = 0.5
"""Seconds of the limit that may be sent at once after the pace was too slow."""
_PAUSE = 1.0
"""Seconds without requests after a refusal that does not say how long to wait."""
_FAILURES = 8
"""Failures in a row that open the circuit."""
_LONGEST_WAIT = 600.0
_LIMITS = ("requests", "input-tokens", "output-tokens")


@dataclass
class _Pace:
    """Spreads `per_minute` units evenly. The next may be sent from the time `free` on."""

    per_minute: float
    free: float = 0.0

    def take(self, amount: float, now: float) -> None:
        self.free = max(self.free, now - _CATCH_UP) + 60 * amount / (self.per_minute * _SHARE)


@dataclass(frozen=True)
class Permit:
    """Allows to send a request: the tokens that it was counted with."""

    tokens_in: int
    tokens_out: int


class Limiter:
    """Decides when requests may be sent. `openings` counts how often the circuit opened without an answer since.

    Args:
        concurrency: requests under way at most.
        now: seconds that only grow.
        sleep: waits for the given number of seconds.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._most = concurrency
        self._now, self._sleep = now, sleep
        self._paces: dict[str, _Pace] = {}
        self._window = 1  # the first answer shows the limits, and has written a shared prefix into the cache
        self._under_way = 0
        self._held_until = 0.0
        self._failures = 0
        self.openings = 0
        self._silent_since: float | None = None
        self._gate = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def silence(self) -> float:
        """Seconds since the first of the refusals after which nothing was answered; 0 without any."""
        return 0.0 if self._silent_since is None else self._now() - self._silent_since

    async def acquire(self, tokens_in: int, tokens_out: int) -> Permit:
        """Wait until a request may be sent, in the order of the calls. End it by one of the methods below."""
        async with self._gate:
            while self._under_way >= self._window:
                self._changed.clear()
                await self._changed.wait()
            while (wait := self._wait()) > 0:
                await self._sleep(min(wait, 5.0))  # limits may change meanwhile
            amounts = {"requests": 1, "input-tokens": tokens_in, "output-tokens": tokens_out}
            for name, pace in self._paces.items():
                pace.take(amounts[name], self._now())
            self._under_way += 1
            return Permit(tokens_in, tokens_out)

    def count_answer(self, permit: Permit, headers: Mapping[str, str], tokens_in: int, tokens_out: int) -> None:
        """Count an answer: its headers give the limits, its tokens correct those that were estimated."""
        self._failures = self.openings = 0
        self._silent_since, self._window = None, self._most
        self.observe(headers)
        for name, by in (
            ("input-tokens", tokens_in - permit.tokens_in),
            ("output-tokens", tokens_out - permit.tokens_out),
        ):
            if name in self._paces:
                self._paces[name].free += 60 * by / (self._paces[name].per_minute * _SHARE)
        self.give_back()

    def count_refusal(self, headers: Mapping[str, str], *, overloaded: bool = False) -> None:
        """Count a refusal for the rate (429) or for the service's load (529): nothing is sent as long as it asks."""
        self.observe(headers)
        self._silent_since = self._now() if self._silent_since is None else self._silent_since
        asked = retry_after(headers) or _PAUSE
        self._held_until = max(self._held_until, self._now() + min(asked, _LONGEST_WAIT))
        if overloaded:
            self._fail()
        self.give_back()

    def count_failure(self) -> None:
        """Count a request without a usable answer; after several in a row, one at a time is tried, ever more rarely."""
        self._fail()
        self.give_back()

    def give_back(self) -> None:
        """Count a request as ended, also one that was not sent, or refused for what it asks."""
        self._under_way -= 1
        self._changed.set()

    def observe(self, headers: Mapping[str, str]) -> None:
        """Take over limits from a response."""
        for name in _LIMITS:
            limit = _read_number(headers.get(f"anthropic-ratelimit-{name}-limit"))
            if limit is None or limit <= 0:
                continue
            pace = self._paces.setdefault(name, _Pace(limit, self._now()))
            pace.per_minute = limit
            if _read_number(headers.get(f"anthropic-ratelimit-{name}-remaining")) == 0:
                pace.free = max(pace.free, self._now() + (60 / limit if name == "requests" else 1.0))

    def _fail(self) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures, self._window = 0, 1
            self.openings += 1
            self._held_until = max(self._held_until, self._now() + min(120.0, 2.0**self.openings))

    def _wait(self) -> float:
        now = self._now()
        return max([self._held_until, *(pace.free for pace in self._paces.values())]) - now


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how long a response asks to wait, in seconds; 0 if it does not."""
    return max(0.0, _read_number(headers.get("retry-after")) or 0.0)


def _read_number(text: str | None) -> float | None:
    with suppress(ValueError, TypeError):
        number = float(text or "")
        return number if math.isfinite(number) else None
    return None
