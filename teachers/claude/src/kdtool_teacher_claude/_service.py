"""Questions to the service from ordinary code: a thread with an event loop, and answers as an iterator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue

import kdtool
from anyio.from_thread import start_blocking_portal
from kdtool_measuring import Ledger

from kdtool_teacher_claude._batches import Batches
from kdtool_teacher_claude._client import Client
from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._messages import Limiter, Messages
from kdtool_teacher_claude._money import Progress
from kdtool_teacher_claude._requests import Asked, picodollars, prices_of, restore

_WAVE = 100_000
"""Requests that are in batches at the same time."""
_PATIENCE = 30.0
"""Seconds that a run which ends waits for answers under way: they are paid for."""
_AHEAD = 2
"""Requests prepared for each that may be under way, so that none waits for another thread."""
_Reply = kdtool.TextAnswer | BaseException


class Service:
    """Answers requests from the ledger, and asks for what is missing.

    Args:
        config: the teacher's settings.
        file: the ledger.
        offline: only an address on this machine may be asked.
        say: shows a line.
    """

    def __init__(self, config: ClaudeConfig, file: Path, *, offline: bool, say: Callable[[str], None]) -> None:
        self._config, self._offline, self._say = config, offline, say
        self._prices = prices_of(config)
        self._ledger = Ledger.open_shared(file)
        self._stack = ExitStack()
        self._stack.callback(self._ledger.close)
        self._connected = False

    def answer(self, asked: Iterator[Asked]) -> Iterator[kdtool.TextAnswer]:
        """Yield an answer to each request, as they come. Nothing is opened if the ledger has all of them."""
        progress = Progress(self._ledger, picodollars(self._config.budget_usd), self._say)
        try:
            for query in asked:
                if (stored := self._ledger.find(query.key)) is None:
                    yield from self._ask(chain([query], asked), progress)
                    return
                progress.stored += 1
                yield restore(stored, query.request)
        finally:
            progress.end()

    def _ask(self, asked: Iterator[Asked], progress: Progress) -> Iterator[kdtool.TextAnswer]:
        self._connect()
        batches = Batches(self._config, self._client, self._ledger, self._prices, progress, self._say)
        self._portal.call(batches.collect_open)  # also of a run in another mode: what they hold is paid for
        if self._config.mode == "messages":
            yield from self._by_messages(asked, progress)
            return
        while wave := list(islice(asked, _WAVE)):
            answers: list[kdtool.TextAnswer] = []
            self._portal.call(batches.answer_all, wave, answers.append)
            yield from answers

    def _by_messages(self, asked: Iterator[Asked], progress: Progress) -> Iterator[kdtool.TextAnswer]:
        """Keep as many requests under way as allowed. After a failure no more are begun, and those under way are kept."""
        messages = self._portal.call(
            lambda: Messages(self._config, self._client, self._ledger, self._prices, self._limiter, progress)
        )
        replies: SimpleQueue[_Reply] = SimpleQueue()
        loop = self._portal.call(asyncio.get_running_loop)
        tasks: set[asyncio.Task[None]] = set()

        async def work(query: Asked) -> None:
            try:
                replies.put(await messages.answer(query))
            except BaseException as error:
                replies.put(error)

        def begin(some: list[Asked]) -> None:
            for query in some:
                task = loop.create_task(work(query))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        under_way, failure = 0, None
        try:
            while True:
                if failure is None and (some := list(islice(asked, _AHEAD * self._config.concurrency - under_way))):
                    under_way += len(some)
                    loop.call_soon_threadsafe(begin, some)
                if not under_way:
                    break
                for reply in [replies.get(), *(replies.get() for _ in range(replies.qsize()))]:
                    under_way -= 1
                    if isinstance(reply, BaseException):
                        failure = failure or reply
                    else:
                        yield reply
            if failure is not None:
                raise failure
        finally:
            messages.stop()
            self._portal.call(_finish, tasks)

    def _connect(self) -> None:
        if self._connected:
            return
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            self._client = self._portal.call(lambda: Client(self._config, offline=self._offline))
            stack.callback(self._portal.call, self._client.close)
            self._portal.call(self._client.require_model)
            self._limiter = self._portal.call(lambda: Limiter(self._config.concurrency))
            self._stack.push(stack.pop_all())
        self._connected = True

    def spent(self) -> str:
        """Return the money spent so far, of the budget."""
        return self._ledger.spent_of(picodollars(self._config.budget_usd))

    def close(self) -> None:
        """Close the connection and the ledger."""
        self._stack.close()


async def _finish(tasks: set[asyncio.Task[None]]) -> None:
    """Wait for requests under way, which are paid for; give up those that take too long."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=_PATIENCE)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
