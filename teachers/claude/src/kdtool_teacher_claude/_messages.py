"""Answers one by one: each attempt is journalled before it is sent, and its answer with its price before anyone gets it."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import kdtool
from kdtool_asking import Attempt, Ledger

from kdtool_teacher_claude._client import Client, DoubtfulError, LimitedError, RefusedError, UnreachedError
from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._limiter import Limiter, Permit
from kdtool_teacher_claude._prices import Prices, dollars, picodollars
from kdtool_teacher_claude._progress import Progress
from kdtool_teacher_claude._requests import Asked, UnreadableError, read_message, refusal, restore

__all__ = ["Messages", "budget_error"]

_OPENINGS = 6
"""Openings of the circuit after which the service counts as down: two minutes and more."""
_LONGEST_SILENCE = 900.0
"""Seconds without any answer after which refusals for the rate (429) end the run, too; until then they are waited for."""
_TTL = {"5m": 240.0, "1h": 3300.0, "off": 0.0}
"""Seconds without a request after which a prefix counts as cold; a bit less than it lasts."""


class Messages:
    """Asks the Messages API, within the budget and the limits. Used inside one event loop."""

    def __init__(
        self,
        config: ClaudeConfig,
        client: Client,
        ledger: Ledger,
        prices: Prices,
        limiter: Limiter,
        progress: Progress,
    ) -> None:
        self._config, self._client, self._ledger, self._prices = config, client, ledger, prices
        self._limiter, self._progress = limiter, progress
        self._budget = picodollars(config.budget_usd)
        self._unknown = Counter(ledger.unknown())
        self._same: dict[str, asyncio.Future[str | None]] = {}
        self._warm: dict[str, float] = {}
        self._warming: dict[str, asyncio.Lock] = {}
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
        lock = self._warming.setdefault(asked.prefix, asyncio.Lock()) if self._is_cold(asked) else None
        if lock is None:
            return await self._send(asked)
        async with lock:  # one request writes the prefix into the cache, and the others read it
            if self._is_cold(asked):
                return await self._send(asked)
        return await self._send(asked)

    def _is_cold(self, asked: Asked) -> bool:
        now = asyncio.get_running_loop().time()
        return bool(asked.prefix) and now - self._warm.get(asked.prefix, float("-inf")) > _TTL[self._config.cache]

    async def _send(self, asked: Asked) -> str:
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
                self._limiter.count_refusal(permit, error.headers, overloaded=error.overloaded)
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
        self._warm[asked.prefix] = asyncio.get_running_loop().time()
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
        f"budget_usd: the next request may cost {dollars(bound)}, but {dollars(ledger.spent)} are spent and "
        f"{dollars(ledger.on_hold)} reserved of {dollars(budget)}; raise it and run again: stored answers are not "
        "charged again"
    )
