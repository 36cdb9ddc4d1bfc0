"""One model that generates a limited number of answers at once, with a bounded queue for the others.

Answers are generated in worker threads, which do not keep the process alive; as many at once as their keys and values fit
into memory. Everything else happens in the event loop, so that nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
import traceback
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import kdtool
import psutil

from kdtool_serve.devices import Devices
from kdtool_serve.errors import RequestError
from kdtool_serve.tasks import Task, require_abilities

FindEnd = Callable[[str], int | None]
"""Return how many characters of an answer are kept if it ends after a text; None if it continues."""


class Answer:
    """An answer that waits or is generated: iterate over its pieces once.

    Times are of `time.perf_counter`, 0: not yet. `end` is the finish of the last piece, "failed" or "cancelled", `text`
    what was generated, `echoed` the number of the prompt's tokens in `logprobs`, and `error` the exception of the model.

    Args:
        task: the request to answer, and how.
        find_end: is called in the worker thread with the text so far, after each piece.
        whole: hand over one piece, when the answer is finished. It costs the machine less than many.
    """

    def __init__(self, task: Task, find_end: FindEnd, *, whole: bool) -> None:
        self.task, self.request = task, task.request
        self.created = time.perf_counter()
        self.started = 0.0
        self.first = 0.0
        self.tokens_at_first = 0
        self.last = 0.0
        self.tokens_in = 0
        self.tokens_out = 0
        self.cancelled = False
        self.end = "cancelled"
        self.text = ""
        self.echoed = 0
        self.error: BaseException | None = None
        self._find_end = find_end
        self._whole = whole
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[kdtool.TextPiece | BaseException | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[kdtool.TextPiece]:
        """Yield pieces. Raises what the model raised."""
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def generate(self, runtime: kdtool.Runtime) -> None:
        """Generate the answer, in a worker thread; stop at the first piece after it was cancelled."""
        try:
            self.started = time.perf_counter()
            pieces = self.task.stream(runtime)
            try:
                self._pass_on(pieces)
            finally:
                if (close := getattr(pieces, "close", None)) is not None:
                    close()
        except BaseException as error:  # whatever it is, the request gets an answer and the thread lives on
            self.error, self.end = error, "failed"
        self.put(self.error)

    def put(self, piece: kdtool.TextPiece | BaseException | None) -> None:
        """Hand over a piece, from any thread; an error or None ends the answer."""
        call_loop(self._loop, self._pieces.put_nowait, piece)

    def _pass_on(self, pieces: Iterator[kdtool.TextPiece]) -> None:
        text, shown = "", ""
        offsets = Offsets()
        held: list[tuple[int, kdtool.TokenLogprob]] = []
        logprobs: list[kdtool.TokenLogprob] = []
        for piece in pieces:
            if self.cancelled:
                return
            before, text = len(text), text + piece.text
            finish = piece.finish
            if (kept := self._find_end(text)) is not None:
                text, finish = text[:kept], "stop"
            self.text = text
            self._note(piece, finish)
            if piece.tokens_out:  # those of a text that is cut are left out
                held += [(offsets.place(token), token) for token in piece.logprobs]
                ready = [at < len(text) + (not token.shown) or finish == "length" for at, token in held]
                logprobs += [token for (_, token), is_ready in zip(held, ready, strict=True) if is_ready]
                held = [each for each, is_ready in zip(held, ready, strict=True) if not is_ready]
            else:
                logprobs += piece.logprobs
                self.echoed += len(piece.logprobs)
            shown += self.task.restore(text[before:])
            if finish or not self._whole:
                self.put(replace(piece, text=shown, finish=finish, logprobs=tuple(logprobs)))
                shown, logprobs = "", []
            if finish:
                return

    def _note(self, piece: kdtool.TextPiece, finish: str | None) -> None:
        self.last = time.perf_counter()
        if piece.tokens_out and not self.first:
            self.first, self.tokens_at_first = self.last, piece.tokens_out
        self.tokens_in, self.tokens_out = piece.tokens_in, piece.tokens_out
        self.end = finish or self.end


class Offsets:
    """Positions of tokens in a text, in characters; those within a character have its position. `at`: the next one's."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self._decoder = _DECODER("replace")

    def place(self, token: kdtool.TokenLogprob) -> int:
        """Return the position of the next token."""
        written = token.token.encode("utf-8", "surrogateescape") if token.shown else b""
        begin, new = self.at, len(self._decoder.decode(written))
        self.at += new
        return begin + max(0, new - len(_DECODER("replace").decode(written)))  # earlier bytes that make no character


_DECODER = getincrementaldecoder("utf-8")


class Workers:
    """Daemon threads that run functions in the order of `submit`.

    The same few threads run all of them, because torch and OpenMP keep memory for each thread that ever computed.
    """

    def __init__(self, name: str, count: int) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"kdtool-serve {name} {number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` when a thread is free; its exceptions are printed."""
        self._tasks.put(task)

    def stop(self) -> None:
        """Let the threads end when they have finished the submitted tasks."""
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:
                traceback.print_exc()  # the thread must live: others wait for it
            del task  # frees the request's memory while the thread waits


@dataclass(frozen=True)
class _Opened:
    """A loaded model and the threads that generate its answers."""

    runtime: kdtool.Runtime
    workers: Workers
    streams: int


class Engine:
    """A model, loaded by `start` when it is first asked, and again after it `failed` with a `PluginError`.

    Args:
        name: the model's name.
        load: opens it, in a thread of `loader`.
        queue: answers that may wait.
        loader: the thread that loads models, one after the other.

    `devices` are those of completions at a cursor. `before_load` is called when a model is about to load, `finished` with
    each answer that has ended, and `idle` whenever the model may no longer be used.
    """

    def __init__(self, name: str, load: Callable[[], kdtool.Runtime], *, queue: int, loader: Workers) -> None:
        self.name = name
        self.devices = Devices()
        self.before_load: Callable[[], None] = lambda: None
        self.finished: Callable[[Answer], None] = lambda _: None
        self.idle: Callable[[], None] = lambda: None
        self.running: set[Answer] = set()
        self.admitted = 0
        self.failed = False
        self.used = 0.0
        self._load = load
        self._queue = queue
        self._loader = loader
        self.waiting: deque[Answer] = deque()
        self._opened: _Opened | None = None
        self._loading: asyncio.Future[_Opened] | None = None
        self._warned = False
        self._seconds = 1.0  # a moving average of an answer's time

    @property
    def runtime(self) -> kdtool.Runtime | None:
        """The model; None while it is not loaded."""
        return self._opened.runtime if self._opened else None

    @property
    def streams(self) -> int:
        """Answers that are generated at once."""
        return self._opened.streams if self._opened else 1

    @property
    def queue_length(self) -> int:
        """Answers that wait for a slot, or for the model to load."""
        return self.admitted - len(self.running)

    async def start(
        self, requests: Sequence[kdtool.Request], find_end: FindEnd, *, whole: bool, **shape: bool
    ) -> list[Answer]:
        """Admit requests together, load the model if it is not, and return their answers, which begin when slots are free.

        For `find_end` and `whole` see `Answer`, for `shape` see `Task.of`.

        Raises:
            RequestError: the queue has no room now or at all, or the model is not able to answer the requests.
            Exception: what loading the model raised.
        """
        if len(requests) > self._queue + self.streams:
            raise RequestError(
                f"the queue has room for {self._queue + self.streams} answers at once, and not for {len(requests)}; "
                "ask for fewer, or start the server with a longer --queue",
                param="n",
            )
        if self.admitted + len(requests) > self._queue + self.streams:
            seconds = max(1, min(60, round(self._seconds * self.admitted / self.streams)))
            raise RequestError(
                f"the queue is full: {kdtool.count_of(self.admitted, 'earlier answer')}; try again in {seconds} s",
                status=429,
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            )
        self.admitted += len(requests)
        try:
            runtime = await self.load()
            tasks = [Task.of(each, runtime, self.devices, **shape) for each in requests]
            self._warn(tasks[0])
            require_abilities(self.name, runtime, tasks[0].request)
        except BaseException:
            self.admitted -= len(requests)
            self.idle()
            raise
        answers = [Answer(task, find_end, whole=whole) for task in tasks]
        self.waiting.extend(answers)
        self._dispatch()
        return answers

    def _warn(self, task: Task) -> None:
        """Say once that the model does not read the text after a gap."""
        if task.continued and not self._warned:
            self._warned = True
            kdtool.say(
                f"{self.name} has no FIM tokens: it fills a gap by continuing the text before it, and does not read the "
                "text after it",
                err=True,
            )

    def open(self) -> None:
        """Load the model now, in this thread, before there is an event loop. Raises what loading raises."""
        self._opened = self._open()

    async def load(self) -> kdtool.Runtime:
        """Load the model unless it is loaded; further callers wait for the same load."""
        while self._opened is None:
            await asyncio.shield(self._begin_load())
        self.used = time.monotonic()
        return self._require_open().runtime

    def cancel(self, answers: Sequence[Answer]) -> None:
        """Stop answers: those that wait are forgotten, those that are generated end with their next token."""
        for answer in answers:
            answer.cancelled = True
            if answer in self.waiting:
                self.waiting.remove(answer)
                answer.put(None)
                self._end(answer)

    def unload(self) -> None:
        """Close the model, which must be idle; the next request loads it again."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.workers.stop()
            self._loader.submit(opened.runtime.unload)

    def _begin_load(self) -> asyncio.Future[_Opened]:
        if self._loading is None:
            loop = asyncio.get_running_loop()
            self.before_load()
            self._loading = loop.create_future()
            self._loader.submit(lambda: self._open_for(loop))
        return self._loading

    def _open(self) -> _Opened:
        runtime = self._load()
        streams = fitting_streams(runtime)
        if each := cache_bytes(runtime):
            less = f" instead of {runtime.streams}, by the free memory" if streams < runtime.streams else ""
            size = f"{each / 1e6:,.0f} MB of keys and values"
            kdtool.say(f"{self.name}: {streams} answers at once{less}, each with up to {size}", err=True)
        return _Opened(runtime, Workers(self.name, streams), streams)

    def _open_for(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the model in the loader's thread."""
        try:
            opened = self._open()
        except BaseException as error:
            call_loop(loop, self._finish_load, None, error)
        else:
            call_loop(loop, self._finish_load, opened, None)

    def _finish_load(self, opened: _Opened | None, error: BaseException | None) -> None:
        loading, self._loading, self._opened = self._loading, None, opened
        if loading is not None and opened is not None:
            self.failed = False
            loading.set_result(opened)
            self._dispatch()
        elif loading is not None and error is not None:
            loading.set_exception(error)
            loading.exception()  # nobody may wait any more
            for answer in self.waiting:
                answer.put(error)
            self.cancel([*self.waiting])
        self.idle()

    def _require_open(self) -> _Opened:
        if self._opened is None:
            raise kdtool.KdtoolError(f"{self.name} is not loaded")
        return self._opened

    def _dispatch(self) -> None:
        if self.failed:
            self._replace()
            return
        while self.waiting and len(self.running) < self.streams:
            answer = self.waiting.popleft()
            self.running.add(answer)
            opened, loop = self._require_open(), asyncio.get_running_loop()
            opened.workers.submit(partial(self._generate, answer, opened.runtime, loop))

    def _replace(self) -> None:
        """Close the model that failed when no answer uses it any more, and load it again for those that wait."""
        if not self.running:
            self.unload()
            if self.waiting:
                self._begin_load()

    def _generate(self, answer: Answer, runtime: kdtool.Runtime, loop: asyncio.AbstractEventLoop) -> None:
        answer.generate(runtime)
        call_loop(loop, self._release, answer)

    def _release(self, answer: Answer) -> None:
        self.running.discard(answer)
        if isinstance(answer.error, kdtool.PluginError):
            self.failed = True
            kdtool.say(f"{self.name} failed, and loads again with its next request: {answer.error}", err=True)
        self._seconds += 0.2 * (time.perf_counter() - answer.started - self._seconds)
        self._end(answer)
        self._dispatch()

    def _end(self, answer: Answer) -> None:
        self.admitted -= 1
        self.used = time.monotonic()
        self.finished(answer)
        self.idle()


def fitting_streams(runtime: kdtool.Runtime) -> int:
    """Return how many answers fit into half of the free memory, each as long as the context; at least one.

    It is at most the runtime's `streams`, and that number for a model with unknown shapes, such as a GGUF file: llama.cpp
    reserves its memory when it starts.
    """
    each = cache_bytes(runtime)
    if not each:
        return runtime.streams
    free: int = psutil.virtual_memory().available
    return max(1, min(runtime.streams, free // 2 // each))


def cache_bytes(runtime: kdtool.Runtime) -> int:
    """Return the bytes of the keys and values of one answer as long as the context; 0 if they are not known."""
    facts = runtime.model.facts if runtime.model else None
    return facts.cache_bytes(4 if facts.dtype == "float32" else 2) if facts else 0


def call_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in the loop's thread; nothing happens after the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
