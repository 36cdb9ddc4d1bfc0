"""Answers by batches, at half the price: a batch is journalled before it is submitted, and found again after a kill.

The name of a batch is in every `custom_id`. The service's list shows neither, so a batch that nobody submitted according
to the ledger is recognised by its first result.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import kdtool
from kdtool_measuring import Attempt, Batch, Ledger

from kdtool_teacher_claude._client import Client, DoubtfulError, GoneError, LimitedError, RefusedError, UnreachedError
from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._messages import budget_error, retry_after
from kdtool_teacher_claude._money import Progress
from kdtool_teacher_claude._requests import Asked, Prices, UnreadableError, picodollars, read_message, refusal, restore

_MOST_BYTES, _MOST_REQUESTS = 200_000_000, 10_000
_ORPHAN_SECONDS = 900.0
"""Seconds to wait for a batch to appear in the service's list, after a run that was killed while it submitted it."""
_SHORT_FILES = 3
"""Times that a file of results with fewer lines than the service counts is fetched."""
_FIRST_POLL, _LONGEST_POLL = 0.2, 60.0


class Batches:
    """Asks by batches, within the budget. Used inside one event loop."""

    def __init__(
        self,
        config: ClaudeConfig,
        client: Client,
        ledger: Ledger,
        prices: Prices,
        progress: Progress,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._client, self._ledger, self._prices = config, client, ledger, prices
        self._progress, self._say = progress, say
        self._budget = picodollars(config.budget_usd)
        self._prefix = "kd" + hashlib.sha256(config.model.encode()).hexdigest()[:8]
        self._wrong: dict[str, str] = {}

    async def answer_all(self, asked: Sequence[Asked], deliver: Callable[[kdtool.TextAnswer], None]) -> None:
        """Deliver an answer to each request, once its batch has ended.

        Raises:
            BudgetError: the next request could exceed the budget; what is in batches has been collected.
            ServiceError: the service stays down, or leaves requests unanswered again and again.
        """
        waiting = self._missing({query.key: query for query in asked})
        fruitless = 0
        while waiting and fruitless <= self._config.retries:
            stopped = await self._submit_all(list(waiting.values()))
            await self.collect_open()
            before, waiting = len(waiting), self._missing(waiting)
            if len(waiting) == before:
                fruitless += 1
                if stopped:
                    raise stopped
        for query in asked:
            if (stored := self._ledger.find(query.key)) is not None:
                deliver(restore(stored, query.request))
            elif query.key in self._wrong:
                deliver(refusal(query.request, self._wrong[query.key]))
            else:
                raise kdtool.ServiceError(
                    "batches end without an answer to some requests again and again; run again later, or with "
                    "`mode: messages`. Answers so far are kept"
                )

    def _missing(self, waiting: dict[str, Asked]) -> dict[str, Asked]:
        """Return requests that have no answer and may be asked."""
        missing = {
            key: query for key, query in waiting.items() if key not in self._wrong and self._ledger.find(key) is None
        }
        unknown = self._ledger.unknown()
        for key in missing.keys() & unknown.keys():
            if self._config.on_unknown == "skip":
                self._wrong[key] = "an earlier attempt had no known outcome, and `on_unknown: skip` does not ask again"
        return {key: query for key, query in missing.items() if key not in self._wrong}

    async def _submit_all(self, asked: list[Asked]) -> kdtool.BudgetError | None:
        """Submit what the budget allows; return the error for the rest."""
        unknown = self._ledger.unknown()
        for part in _parts(asked, _MOST_REQUESTS):
            reserved: list[tuple[Asked, Attempt]] = []
            stopped = None
            for query in part:
                bound = self._prices.bound(query.most_in, query.most_out, marked=bool(query.prefix), batched=True)
                attempt = self._ledger.reserve(query.key, bound, limit=self._budget, about=query.about)
                if attempt is None:
                    stopped = budget_error(self._ledger, self._budget, bound)
                    break
                reserved.append((query, attempt))
                self._progress.asked_again += query.key in unknown
            if reserved:
                await self._submit(reserved)
            if stopped:
                return stopped
        return None

    async def _submit(self, reserved: Sequence[tuple[Asked, Attempt]]) -> None:
        name = f"{self._prefix}-{uuid.uuid4().hex[:16]}"
        attempts = [attempt for _, attempt in reserved]
        items = [{"custom_id": f"{name}-{attempt.id}", "params": dict(query.body)} for query, attempt in reserved]
        await asyncio.wrap_future(self._ledger.write_batch(name, attempts))
        try:
            # Only after a failure that certainly created none is a batch submitted again.
            remote = await self._retry(
                lambda: self._client.create_batch(items), (LimitedError, UnreachedError), "no batch can be submitted"
            )
        except DoubtfulError:
            return  # looked for among the service's batches
        except (RefusedError, kdtool.KdtoolError) as error:
            await self._give_up(Batch(name, "", tuple(attempts)), str(error))
            if isinstance(error, kdtool.KdtoolError):
                raise
            raise kdtool.ServiceError(
                f"a batch is refused ({error}); lower batch_size, or take `mode: messages`"
            ) from None
        await asyncio.wrap_future(self._ledger.write_submitted(name, remote))

    async def _give_up(self, batch: Batch, reason: str) -> None:
        """Record that a batch was never made."""
        for attempt in batch.attempts:
            self._ledger.release(attempt, reason)
        await asyncio.wrap_future(self._ledger.end_batch(batch.id))

    async def collect_open(self) -> None:
        """Collect all batches of this model that are open in the ledger, also those of a run that was killed."""
        for batch in self._ledger.open_batches():
            if not batch.id.startswith(self._prefix):
                continue
            remote = batch.remote or await self._find_orphan(batch)
            if remote:
                await self._collect(batch, remote)
            else:
                await self._give_up(batch, "it never reached the service")

    async def _find_orphan(self, batch: Batch) -> str:
        """Return the service's id of a batch whose submission was not confirmed; "" if it was never made."""
        until = time.monotonic() + _ORPHAN_SECONDS
        told = False
        while True:
            running = False
            known = self._ledger.known_batches()
            for shown in await self._retry(self._client.list_batches):
                counts = sum(shown["request_counts"].values())
                if shown["id"] in known or counts not in {0, len(batch.attempts)}:
                    continue
                if shown["processing_status"] != "ended":
                    running = True
                elif await self._is(batch, shown["id"]):
                    await asyncio.wrap_future(self._ledger.write_submitted(batch.id, shown["id"]))
                    return str(shown["id"])
            if not running and time.monotonic() >= until:
                return ""
            if not told:
                told = True
                self._say("claude: a batch was being submitted when a run ended; waiting to see whether it exists")
            await asyncio.sleep(min(15.0, max(0.05, _ORPHAN_SECONDS / 20)))

    async def _is(self, batch: Batch, remote: str) -> bool:
        try:
            results = await self._retry(lambda: self._client.results(remote))
        except GoneError:
            return False
        return any(str(line.get("custom_id", "")).startswith(f"{batch.id}-") for line in results)

    async def _collect(self, batch: Batch, remote: str) -> None:
        """Wait for a batch, and record its results; those that it does not have are unknown."""
        try:
            lines = await self._fetch(remote)
        except GoneError as error:
            self._say(f"claude: results of the batch {remote} are gone ({error}); its requests may have been charged")
            lines = {}
        for attempt in batch.attempts:
            result = lines.get(f"{batch.id}-{attempt.id}", {}).get("result")
            if isinstance(result, dict):
                self._record(attempt, result)
        await asyncio.wrap_future(self._ledger.end_batch(batch.id))

    async def _fetch(self, remote: str) -> dict[str, dict[str, Any]]:
        """Return the lines of a batch's results by `custom_id`, once it has ended.

        Raises:
            GoneError: the service has them no longer.
        """
        pause = _FIRST_POLL
        while (shown := await self._retry(lambda: self._client.get_batch(remote)))["processing_status"] != "ended":
            await asyncio.sleep(pause)
            pause = min(_LONGEST_POLL, 1.5 * pause)
        lines: dict[str, dict[str, Any]] = {}
        for _ in range(_SHORT_FILES):
            for line in await self._retry(lambda: self._client.results(remote)):
                lines[str(line.get("custom_id"))] = line
            if len(lines) >= sum(shown["request_counts"].values()):
                break
        return lines

    def _record(self, attempt: Attempt, result: dict[str, Any]) -> None:
        kind = result.get("type")
        if kind == "succeeded":
            try:
                stored, usage, price = read_message(result.get("message"), self._prices, batched=True)
            except UnreadableError as error:
                self._ledger.doubt(attempt, str(error))
                return
            self._ledger.settle(attempt, stored, price, usage.thinking)
            self._progress.add(usage)
        elif kind in {"expired", "canceled"}:
            self._ledger.release(attempt, str(kind))
        elif kind == "errored":
            shown = (result.get("error") or {}).get("error") or {}
            reason = f"{shown.get('type')}: {shown.get('message')}"[:300]
            self._ledger.release(attempt, reason)
            if shown.get("type") == "invalid_request_error":
                self._wrong[attempt.key] = reason

    async def _retry(
        self,
        ask: Callable[[], Any],
        failures: tuple[type[Exception], ...] = (RefusedError, LimitedError, UnreachedError, DoubtfulError),
        problem: str = "batches cannot be collected",
    ) -> Any:
        """Repeat a question that costs nothing if it ends with one of `failures`.

        Raises:
            GoneError: what it asks for is not there.
            ServiceError: no answer comes.
        """
        for number in range(1 + self._config.retries):
            try:
                return await ask()
            except failures as error:
                reason = str(error)
                pause = retry_after(error.headers) if isinstance(error, LimitedError) else 0.0
            await asyncio.sleep(pause or min(60.0, 0.25 * 2**number))
        raise kdtool.ServiceError(f"{problem}: {reason}; run again later. Nothing is lost")


def _parts(asked: Sequence[Asked], most: int) -> Iterator[list[Asked]]:
    part: list[Asked] = []
    size = 0
    for query in asked:
        length = len(json.dumps(query.body)) + 100
        if part and (len(part) == most or size + length > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(query)
        size += length
    if part:
        yield part
