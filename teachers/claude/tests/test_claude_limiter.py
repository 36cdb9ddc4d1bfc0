"""The limiter, on a simulated clock: it uses the permitted rate, and is hardly ever refused."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import pytest
from kdtool_teacher_claude._messages import Limiter


class Clock:
    """Time that passes only while everybody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = count()

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._number), future))
        await future

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(50):  # whoever can go on does
                await asyncio.sleep(0)
            if not task.done() and self._sleepers:
                self.now, _, future = heapq.heappop(self._sleepers)
                future.set_result(None)
        await task


class Service:
    """Allows so many requests a minute, `burst` of them at once, and answers after a second or so."""

    def __init__(self, clock: Clock, per_minute: Callable[[], float], burst: float, *, headers: bool = True) -> None:
        self._clock, self._per_minute, self._burst, self._level, self._filled = clock, per_minute, burst, burst, 0.0
        self._headers = headers
        self.times: list[tuple[float, bool]] = []

    async def ask(self, number: int) -> tuple[bool, dict[str, str]]:
        rate = self._per_minute() / 60
        self._level = min(self._burst, self._level + (self._clock.now - self._filled) * rate)
        self._filled = self._clock.now
        allowed = self._level >= 1
        self._level -= allowed
        self.times.append((self._clock.now, allowed))
        await self._clock.sleep(0.5 + number % 7 / 7 if allowed else 0.05)
        name = "anthropic-ratelimit-requests"
        shown = {f"{name}-limit": f"{self._per_minute()}", f"{name}-remaining": f"{int(self._level)}"}
        return allowed, {**(shown if self._headers else {}), **({} if allowed else {"retry-after": "1"})}


async def work(service: Service, clock: Clock, limiter: Limiter, workers: int, until: float) -> None:
    async def worker() -> None:
        number = count()
        while clock.now < until:
            permit = await limiter.acquire(100, 50)
            allowed, headers = await service.ask(next(number))
            if allowed:
                limiter.count_answer(permit, headers, 100, 50)
            else:
                limiter.count_refusal(headers)

    await asyncio.gather(*(worker() for _ in range(workers)))


def measured(service: Service, first: float, last: float) -> tuple[float, float]:
    """Return requests answered in a minute, and the share that was refused."""
    found = [allowed for at, allowed in service.times if first <= at < last]
    return sum(found) / (last - first) * 60, 1 - sum(found) / len(found)


def on_clock(check: Callable[[Clock, Limiter], Coroutine[Any, Any, None]]) -> None:
    clock = Clock()
    asyncio.run(clock.run(check(clock, Limiter(64, now=lambda: clock.now, sleep=clock.sleep))))


@pytest.mark.parametrize(
    ("burst", "headers", "least", "most_refused"),
    [(10, True, 0.95, 0.005), (600, True, 0.95, 0.005), (10, False, 0.5, 0.9)],
    ids=["steady", "bursts", "without headers"],
)
def test_it_finds_and_uses_the_permitted_rate(burst: int, headers: bool, least: float, most_refused: float) -> None:
    async def check(clock: Clock, limiter: Limiter) -> None:
        service = Service(clock, lambda: 600, burst, headers=headers)
        await work(service, clock, limiter, 64, 240)
        rate, refused = measured(service, 60, 240)
        assert rate >= least * 600
        assert refused <= most_refused

    on_clock(check)


def test_retry_after_is_obeyed() -> None:
    async def check(clock: Clock, limiter: Limiter) -> None:
        await limiter.acquire(1, 1)
        limiter.count_refusal({"retry-after": "17"})
        before = clock.now
        limiter.count_answer(await limiter.acquire(1, 1), {}, 1, 1)
        assert clock.now - before >= 17

    on_clock(check)


def test_failures_in_a_row_open_the_circuit() -> None:
    async def check(clock: Clock, limiter: Limiter) -> None:
        for number in range(24):
            await limiter.acquire(1, 1)
            limiter.count_failure()
            assert limiter.openings == (number + 1) // 8
        limiter.count_answer(await limiter.acquire(1, 1), {}, 1, 1)
        assert clock.now >= 2 + 4 + 8
        assert limiter.openings == 0

    on_clock(check)


def test_tokens_a_minute_are_limited_and_estimates_corrected() -> None:
    spent: list[tuple[float, int]] = []
    headers = {"anthropic-ratelimit-input-tokens-limit": "60000", "anthropic-ratelimit-input-tokens-remaining": "500"}

    async def check(clock: Clock, limiter: Limiter) -> None:
        async def worker() -> None:
            while clock.now < 180:
                permit = await limiter.acquire(1000, 10)
                spent.append((clock.now, 500))
                await clock.sleep(0.3)
                limiter.count_answer(permit, headers, 500, 10)

        await asyncio.gather(*(worker() for _ in range(16)))

    on_clock(check)
    used = sum(tokens for at, tokens in spent if at >= 60) / 2
    assert 0.93 * 60000 <= used <= 60000 * 1.03


def test_no_header_makes_it_wait_for_ever() -> None:
    async def check(clock: Clock, limiter: Limiter) -> None:
        name = "anthropic-ratelimit-requests"
        for asked in ("1e9", "inf", "nan", "Fri, 31 Dec 9999 23:59:59 GMT", "soon"):
            await limiter.acquire(1, 1)
            limiter.count_refusal({"retry-after": asked, f"{name}-limit": "nan"})
            before = clock.now
            limiter.count_answer(await limiter.acquire(1, 1), {f"{name}-limit": "inf", f"{name}-remaining": "0"}, 1, 1)
            assert clock.now - before <= 600

    on_clock(check)
