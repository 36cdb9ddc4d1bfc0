"""Several processes of one run, as torchrun starts them: rank 0 does the run, the others take part where they are needed.

All of them build the same graph and go through its nodes in the same order. Rank 0 makes each; the others wait for it, and
join in the training of a phase. They share the run's folder and the store, and show no messages. Where one of them fails,
torchrun ends all; where rank 0 is gone, the others end by themselves.

Each process compares its graph with that of rank 0, which has published it (`agree`). So a process that reads other files,
code or settings ends with the difference, and torchrun ends the others, instead of waiting for artefacts that are never
made. Rank 0 is known by the run's lock: a graph counts while the process that wrote it holds the lock.

Requests to a model are divided: rank 0 asks, and all ranks answer and score. Rank 0 writes chunks of requests into a folder
below the stage's. Each rank claims one by renaming its file and writes the results next to it, so that a fast rank claims
more. Rank 0 claims some, too, and removes the folder with the last subject. `open_subject` opens a model for that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, islice
from math import ceil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

from pydantic import TypeAdapter

from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import LogLikelihood, Request, Runtime, TextAnswer, TextPiece, Tokenizer
from kdtool._contract.run_info import RunInfo
from kdtool._contract.sources import Teacher
from kdtool._errors import PluginError, UsageError
from kdtool._run.graph import Graph, Node, changes, read_record
from kdtool._store.artefacts import Artefact
from kdtool._store.files import write_beside
from kdtool._store.shared import holder_of

_BEGUN = ".begun"
"""The file in an unfinished folder that names the rank 0 which fills it."""
_FOLDER_GLIMPSE = 0.1
"""Seconds between two looks at the folder that rank 0 makes."""
_BETWEEN_LOOKS_AT_RANK_0 = 1.0
"""Seconds between two looks at the lock of rank 0."""


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and their count, as torchrun sets them; 0 and 1 without it.

    Raises:
        UsageError: RANK and WORLD_SIZE are set to impossible values.
    """
    given = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world = map(int, given)
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise UsageError(
            f"RANK={given[0]} and WORLD_SIZE={given[1]} are invalid: expected whole numbers with 0 ≤ RANK < WORLD_SIZE; "
            "start several with torchrun, or unset both"
        )
    return rank, world


@contextmanager
def invite_ranks(folder: Path, leader: dict[str, Any] | None) -> Iterator[None]:
    """Let the other ranks of the run that `leader` leads join in filling a folder, now that a killed run's rest is gone.

    A run that has one process, or another run that waits for the same artefact, never joins.
    """
    begun = folder / _BEGUN
    if leader is not None:
        write_beside(begun, json.dumps(leader))
    yield
    begun.unlink(missing_ok=True)


def may_join(folder: Path, leader: dict[str, Any] | None) -> bool:
    """Return whether the rank 0 that was agreed on has begun to fill the folder."""
    try:
        return bool(json.loads((folder / _BEGUN).read_text(encoding="utf-8")) == leader)
    except (OSError, ValueError):
        return False


def has_ended(folder: Path) -> bool:
    """Return whether rank 0 no longer fills the folder that this rank joined in."""
    return not (folder / _BEGUN).exists()


def wait_for(node: Node, join: Callable[[Path], bool], is_led: Callable[[], bool]) -> Artefact:
    """Return the artefact that rank 0 makes; `join` is called with its unfinished folder until it returns True.

    Raises:
        UsageError: rank 0 ended without it (`is_led` returns False).
    """
    joined, looked = False, time.monotonic()
    while not node.exists:
        if time.monotonic() - looked > _BETWEEN_LOOKS_AT_RANK_0:
            looked = time.monotonic()
            if not is_led() and not node.exists:
                raise UsageError(
                    f"process 0 of this run ended before the stage {node.title!r}; its own message has the reason"
                )
        joined = joined or (node.partial.is_dir() and join(node.partial))
        time.sleep(_FOLDER_GLIMPSE)
    artefact = node.where.find(*node.key)
    if artefact is None:
        raise UsageError(f"{node.path} was there and is gone: another process deleted it while this run used it")
    return artefact


_GRAPH_GLIMPSE = 0.1
"""Seconds between two looks."""
_GRAPH_PATIENCE = 1800.0
"""Seconds to wait for process 0."""


def agree(folder: Path, graph: Graph, rank: int) -> dict[str, Any]:
    """Compare the graph with that of rank 0, once this has published it; return the record of rank 0's process.

    Raises:
        UsageError: the graphs differ; or rank 0 ended, or did not show up.
    """
    leader: dict[str, Any] | None = None
    end = time.monotonic() + _GRAPH_PATIENCE
    while time.monotonic() < end:
        seen, leader = leader, holder_of(folder)
        if seen and not leader:
            raise UsageError(
                "process 0 of this run ended while others waited for it; its own message has the reason. "
                "Start all of them again"
            )
        published = read_record(folder)
        # Seen twice, since a new rank 0 shows the name of a killed one for a moment, until it has written its own.
        if leader and leader == seen and published.get("by") == leader.get("id"):
            _refuse_difference(graph, published["nodes"], rank)
            return leader
        time.sleep(_GRAPH_GLIMPSE)
    raise UsageError(
        f"process 0 of this run did not start within {_GRAPH_PATIENCE / 60:.0f} minutes; start all together"
    )


def _refuse_difference(graph: Graph, published: dict[str, Any], rank: int) -> None:
    """Refuse a graph that is not the published one, with the first node that differs."""
    for name in {**graph.nodes, **published}:
        node, there = graph.nodes.get(name), published.get(name)
        if node and there and there["fingerprint"] == node.fingerprint:
            continue
        why = (
            "; ".join(changes(node, published)) if node and there else f"process {0 if node else rank} does not have it"
        )
        raise UsageError(
            f"processes 0 and {rank} of this run would not make the same: {name} differs ({why}). Give all processes the "
            "same recipe, settings, files, code and environment, and start them again"
        )


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
        # What only some runtimes know; callers look for these names.
        vars(self).update({name: getattr(runtime, name) for name in ("context", "count") if hasattr(runtime, name)})
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


class _Teacher(Runtime):
    """A teacher that answers by its hook, without being opened as a subject."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        return self._ask(requests)


def divide_answers(run: RunInfo, teacher: str, ask: Ask) -> Ask:
    """Return a function that asks a teacher of this process, and those of the other ranks (`open_teacher`)."""

    def ask_all(requests: Iterable[Request]) -> Iterator[TextAnswer]:
        with DividedRuntime(_Teacher(ask), Subject(teacher, "teacher"), run.folder, run.world) as runtime:
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
