"""Requests to a model, divided among the processes of a run: rank 0 asks, and all ranks answer and score.

Rank 0 writes chunks of requests into a folder below the stage's. Each rank claims one by renaming its file and writes the
results next to it, so that a fast rank claims more. Rank 0 claims some, too, and removes the folder with the last subject.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import count, islice
from math import ceil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

from pydantic import TypeAdapter

from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import LogLikelihood, Request, Runtime, TextAnswer, TextPiece
from kdtool._contract.run_info import RunInfo
from kdtool._contract.teacher import Teacher
from kdtool._contract.tokenizer import Tokenizer
from kdtool._errors import PluginError
from kdtool._store.atomic_files import write_beside

Work = Literal["answer", "score"]
Open = Callable[[Subject], Runtime | None]
Ask = Callable[[Iterable[Request]], Iterator[TextAnswer]]

_FOLDER = ".divided"
_TODO, _DONE = ".todo", ".done"
_CHUNK = 32
"""Most requests of a chunk: as many as runtimes answer in one batch."""
_AHEAD = 3
"""Chunks that wait for each rank, and those that it has begun."""
_GLIMPSE = 0.05
"""Seconds between two looks for chunks, or for results."""
_IDLE = 5.0
"""Seconds without a chunk after which a rank closes the subject."""
_SUBJECT = TypeAdapter(Subject)
_GIVEN: dict[Work, TypeAdapter[Any]] = {"answer": TypeAdapter(list[Request]), "score": TypeAdapter(list[str])}
_MADE: dict[Work, TypeAdapter[Any]] = {
    "answer": TypeAdapter(list[TextAnswer]),
    "score": TypeAdapter(list[LogLikelihood]),
}


class DividedRuntime(Runtime):
    """A runtime of rank 0 whose requests and texts other ranks take part in. All else is asked of the runtime itself."""

    def __init__(self, runtime: Runtime, subject: Subject, folder: Path, world: int) -> None:
        self._runtime, self._subject, self._world = runtime, subject, world
        self.model, self.abilities, self.streams = runtime.model, runtime.abilities, runtime.streams
        (folder / _FOLDER).mkdir(exist_ok=True)
        self._folder = Path(mkdtemp(dir=folder / _FOLDER))
        self._count = 0

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._runtime.tokenizer

    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        for _, answers in self._divide("answer", list(requests)):
            yield from answers

    def score(self, texts: Sequence[str]) -> Iterator[LogLikelihood]:
        waiting, following = dict[int, list[LogLikelihood]](), 0
        for number, scores in self._divide("score", texts):
            waiting[number] = scores
            while following in waiting:
                yield from waiting.pop(following)
                following += 1

    def stream(self, request: Request) -> Iterator[TextPiece]:
        return self._runtime.stream(request)

    def memory(self) -> int | None:
        return self._runtime.memory()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # another subject is open
            self._folder.parent.rmdir()
        self._runtime.close()

    def unload(self) -> None:
        self.close()
        self._runtime.unload()

    def _divide(self, work: Work, items: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
        """Yield the number of each chunk with its results, in the order in which they are there."""
        size = max(1, min(_CHUNK, ceil(len(items) / (2 * self._world))))
        chunks = iter([items[start : start + size] for start in range(0, len(items), size)])
        numbers: dict[Path, int] = {}
        for number, chunk in enumerate(islice(chunks, _AHEAD * self._world)):
            numbers[self._hand_out(work, chunk)] = number
        following = count(len(numbers))
        while numbers:
            file, results = self._next_results(work, list(numbers))
            for chunk in islice(chunks, 1):
                numbers[self._hand_out(work, chunk)] = next(following)
            yield numbers.pop(file), results

    def _hand_out(self, work: Work, chunk: Sequence[Any]) -> Path:
        self._count += 1
        file = self._folder / f"{self._count:08}{_TODO}"
        items = _GIVEN[work].dump_python(list(chunk), mode="json")
        subject = _SUBJECT.dump_python(self._subject, mode="json")
        write_beside(file, json.dumps({"subject": subject, "work": work, "items": items}))
        return file

    def _next_results(self, work: Work, files: Sequence[Path]) -> tuple[Path, list[Any]]:
        """Return a chunk with its results: one that another rank has done, or else one that this rank does."""
        while True:
            for file in files:
                with suppress(FileNotFoundError):
                    results: list[Any] = _MADE[work].validate_json(file.with_suffix(_DONE).read_bytes())
                    file.with_suffix(_DONE).unlink()
                    return file, results
            if claimed := _claim_one(files, 0):
                results = _do(self._runtime, json.loads(claimed.read_bytes()))
                claimed.unlink()
                return claimed.with_suffix(_TODO), results
            time.sleep(_GLIMPSE)


class DividedCountingRuntime(DividedRuntime):
    """The same of a runtime that knows its context and counts tokens."""

    @property
    def context(self) -> int:
        """Maximum tokens of a prompt and its answer together; 0 for no limit."""
        context: int = self._runtime.context  # type: ignore[attr-defined]
        return context

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        count: int = self._runtime.count(text)  # type: ignore[attr-defined]
        return count


def divide(runtime: Runtime, subject: Subject, folder: Path, world: int) -> Runtime:
    """Return the runtime with the other ranks of the run taking part."""
    counts = hasattr(runtime, "context") and hasattr(runtime, "count")
    return (DividedCountingRuntime if counts else DividedRuntime)(runtime, subject, folder, world)


class _Teacher(Runtime):
    """A teacher that answers by its hook, without being opened as a subject."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        return self._ask(requests)


def divide_answers(run: RunInfo, teacher: str, ask: Ask) -> Ask:
    """Return a function that asks a teacher of this process, and those of the other ranks (`open_teacher`)."""

    def ask_all(requests: Iterable[Request]) -> Iterator[TextAnswer]:
        with divide(_Teacher(ask), Subject(teacher, "teacher"), run.folder, run.world) as runtime:
            yield from runtime.answer(requests)

    return ask_all


def open_teacher(run: RunInfo, subject: Subject) -> Runtime:
    """Return the teacher of this process, to answer what rank 0 hands out (`divide_answers`)."""
    return _Teacher(run.component(subject.name, Teacher).kdtool_answer)


def take_part(folder: Path, rank: int, open_subject: Open, is_over: Callable[[], bool]) -> None:
    """Do chunks of rank 0 until the stage is over, or none has come for a while. Subjects stay open meanwhile.

    Raises:
        PluginError: this rank cannot open the subject that rank 0 has opened.
    """
    opened: dict[str, Runtime] = {}
    with ExitStack() as closing:
        seen = time.monotonic()
        while not is_over() and time.monotonic() - seen < _IDLE:
            claimed = _claim_one(_waiting(folder / _FOLDER), rank)
            if claimed is None:
                time.sleep(_GLIMPSE)
                continue
            chunk = json.loads(claimed.read_bytes())
            name = json.dumps(chunk["subject"])
            if name not in opened:
                runtime = open_subject(_SUBJECT.validate_python(chunk["subject"]))
                if runtime is None:
                    raise PluginError(
                        f"process {rank} cannot open {chunk['subject']['name']}, which process 0 has opened"
                    )
                opened[name] = closing.enter_context(runtime)
            results = _do(opened[name], chunk)
            with suppress(FileNotFoundError):  # rank 0 ended the measurement early
                write_beside(claimed.with_suffix(_DONE), _MADE[chunk["work"]].dump_json(results).decode())
                claimed.unlink()
            seen = time.monotonic()


def _do(runtime: Runtime, chunk: dict[str, Any]) -> list[Any]:
    work: Work = chunk["work"]
    items = _GIVEN[work].validate_python(chunk["items"])
    return list(runtime.answer(items) if work == "answer" else runtime.score(items))


def _waiting(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob(f"*/*{_TODO}"))
    except FileNotFoundError:
        return []


def _claim_one(files: Iterable[Path], rank: int) -> Path | None:
    """Give the first of these chunks that no rank has claimed a name of this rank, and return it; None if there is none."""
    for file in files:
        with suppress(FileNotFoundError):
            return file.replace(file.with_suffix(f".rank{rank}"))
    return None
