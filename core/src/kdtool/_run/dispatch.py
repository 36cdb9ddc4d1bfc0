"""Make the stages of a run: in this process, or where the recipe's executor decides, several at a time.

With an executor this process makes nothing itself; `worker` makes one stage in a separate process. A stage is submitted
once its inputs are complete, and submitted again if its process is lost. Stages that ask services share one SQLite file with
the money spent: they are made by processes of this machine, one after the other. Files in the run's folder connect both
sides: the request, and the events of each task.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from kdtool import _errors
from kdtool._contract.executor import Executor, Submitted, Task
from kdtool._contract.run_info import RunInfo
from kdtool._contract.training import StepReport
from kdtool._errors import KdtoolError, RecipeError, ServiceError, StorageError, UsageError, cause_of
from kdtool._plugins.hooks import describe, owner_of
from kdtool._recipe.model import Recipe
from kdtool._run.answers import lend_answers, lent_file, take_back_answers
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._run.plan import RunGraph
from kdtool._run.stages.data import ANSWERS, computes
from kdtool._store.files import PRIVATE, append_line, create, make_private, open_to_append, write_beside
from kdtool._store.shared import PLACES, TASKS

Needs = Callable[[Context, RunInfo, RunGraph], Mapping[str, tuple[int, int]]]
"""Returns the bytes of main memory and of a GPU's that each stage needs."""
_ATTEMPTS = 5
"""Processes that a stage may lose before the run ends."""
_BETWEEN_LOOKS = 0.05
"""Seconds between two looks at the tasks."""
_PATIENCE = 60.0
"""Seconds until an artefact of another machine must be visible, and for tasks to end after they were cancelled."""
_TYPES: Mapping[str, TypeAdapter[Any]] = {"report": TypeAdapter(StepReport), "path": TypeAdapter(Path)}


def make_all(context: Context, run_graph: RunGraph, needs: Needs | None) -> Generator[Node, None, None]:
    """Make or reuse all stages, and yield each when it is there; nothing that depends on it has begun then."""
    executors = context.assembly.of_kind("executor")
    if not executors:
        for node in run_graph.graph.nodes.values():
            context.make(node)
            yield node
        return
    if context.world > 1:
        raise UsageError("an executor starts the processes of a run: leave out --gpus and torchrun, or `executor`")
    executor = context.hooks.component(next(iter(executors)), Executor)
    memory = cache(lambda: needs(context, context.info(), run_graph) if needs else {})
    dispatch = _Dispatch(context, executor, run_graph.graph.nodes, memory)
    try:
        yield from dispatch.make()
    finally:
        dispatch.close()


class TaskEvents:
    """Reads the lines that a task's log has had since the last look."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the new lines, without one that is half written."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:  # it has not begun
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        yield from map(json.loads, whole.splitlines())


@dataclass
class _Running:
    """A submitted stage. `reused` is None until its process has logged the end of the stage."""

    node: Node
    handle: Submitted
    events: TaskEvents
    is_here: bool
    attempts: int
    place: Mapping[str, Any] | None = None
    reused: bool | None = None
    ended: float | None = None


class _Dispatch:
    def __init__(
        self,
        context: Context,
        executor: Executor,
        nodes: Mapping[str, Node],
        memory: Callable[[], Mapping[str, tuple[int, int]]],
    ) -> None:
        self._context, self._executor, self._nodes, self._memory = context, executor, nodes, memory
        self._running: list[_Running] = []
        self._ending: list[Submitted] = []
        self._folder = context.folder / TASKS
        self._run = (context.leader or {})["id"]
        shutil.rmtree(self._folder, ignore_errors=True)
        make_private(self._folder)
        recipe, store = context.assembly.recipe, context.store.root
        self._answers = store / ANSWERS
        self._take_back_answers()
        write_request(context.folder, recipe, store, offline=context.offline, run=self._run)

    def make(self) -> Iterator[Node]:
        waiting, done = [*self._nodes.values()], set[str]()
        while waiting or self._running:
            for node in [*waiting]:
                if all(source.name in done for source in node.sources.values()) and self._begin(node):
                    waiting.remove(node)
                    if node.name in self._context.made:
                        yield node
                        done.add(node.name)
            for running in [*self._running]:
                if self._settle(running):
                    yield running.node
                    done.add(running.node.name)
            self._ending = [handle for handle in self._ending if not handle.done()]
            time.sleep(_BETWEEN_LOOKS if self._running else 0)
        order = list(self._nodes)
        self._context.stages.sort(key=lambda stage: order.index(stage.name))
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """End what still runs, and wait for it."""
        for running in self._running:
            running.handle.cancel()
            self._ending.append(running.handle)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and not all(handle.done() for handle in self._ending):
            time.sleep(_BETWEEN_LOOKS)
        with suppress(KdtoolError):
            self._take_back_answers()
        with suppress(OSError):
            (self._folder / PLACES).unlink(missing_ok=True)

    def _begin(self, node: Node) -> bool:
        """Reuse or submit a stage; False if it must wait for another one that asks services."""
        if node.exists:
            self._context.make(node)
            return True
        is_here = _asks_services(self._context, node)
        if is_here and any(running.is_here for running in self._running):
            return False
        self._submit(node, 0, is_here=is_here)
        return True

    def _submit(self, node: Node, attempts: int, *, is_here: bool) -> None:
        if node.kind == "text" and node.teachers and not is_here:
            lend_answers(self._answers, self._lent(node))
        memory, device = self._memory().get(node.name, (0, 0))
        attempt = f"{self._run}-{attempts}"
        task = Task(
            node.name,
            node.title,
            self._context.folder,
            attempt,
            memory,
            device,
            runs_models=node.runs_models,
            divisible=node.join is not None,
        )
        file = events_file(self._context.folder, node.name, attempt)
        if is_here:
            handle: Submitted = LocalProcess(task.command(), file.with_suffix(".log"))
        else:
            handle = self._executor.kdtool_submit(self._context.info(node), task)
        self._running.append(_Running(node, handle, TaskEvents(file), is_here, attempts + 1))

    def _settle(self, running: _Running) -> bool:
        """Pass on events; return whether the stage is made. One that was lost is submitted again.

        Raises:
            KdtoolError: the stage failed, or was lost too often.
        """
        is_done = running.handle.done()  # before its last events are read
        for line in running.events.new():
            self._replay(running, line)
        if running.node.exists and (is_done or running.reused is not None):
            self._adopt(running)
            return True
        if is_done and running.reused is not None:
            self._wait_until_visible(running)
        elif is_done:
            self._remove(running)
            self._submit_again(running)
        return False

    def _replay(self, running: _Running, line: dict[str, Any]) -> None:
        if "failed" in line:
            raise failure(running.node.title, line)
        if "hook" not in line:
            running.place = line
            self._show_places()
            return
        values = {
            name: _TYPES[name].validate_python(value) if name in _TYPES else value
            for name, value in line["values"].items()
        }
        running.reused = values["reused"] if line["hook"] == "kdtool_stage_end" else running.reused
        if line["hook"] == "kdtool_message":
            self._context.say(values["text"])
        else:
            getattr(self._context.hooks, line["hook"])(self._context.info(running.node), **values)

    def _adopt(self, running: _Running) -> None:
        """Record the artefact as `Context.make` does."""
        context, node = self._context, running.node
        artefact = node.where.find(*node.key)
        if artefact is None:
            raise StorageError(f"{node.path} was there and is gone: another process deleted it while this run used it")
        if running.reused is None:  # killed between the artefact and its last event
            context.hooks.kdtool_stage_end(context.info(node), artefact.seconds, reused=False)
        artefact = replace(artefact, reused=bool(running.reused))
        context.made[node.name] = artefact
        context.stages.append(node.record(artefact.seconds, artefact.path, reused=artefact.reused))
        self._remove(running)
        self._ending.append(running.handle)
        self._take_back_answers(node)

    def _take_back_answers(self, *nodes: Node) -> None:
        """Take back the answers that were lent to these stages, or to all of the run; those of other runs are in use."""
        files = map(self._lent, nodes or self._nodes.values())
        take_back_answers(self._answers, [file for file in files if file.exists()])

    def _lent(self, node: Node) -> Path:
        return lent_file(self._context.store.root, node.fingerprint)

    def _wait_until_visible(self, running: _Running) -> None:
        running.ended = running.ended or time.monotonic()
        if time.monotonic() - running.ended > _PATIENCE:
            raise StorageError(
                f"{running.node.title} was made, but {running.node.path} is not here; the run's folder and the store must "
                "be on a file system that all machines share: choose such --out and --store, and run again"
            )

    def _submit_again(self, running: _Running) -> None:
        title, error = running.node.title, _error_of(running.handle)
        if isinstance(error, KdtoolError):  # it could not write it into the run's folder
            raise error
        reason = cause_of(error) if error else "it ended without a result"
        if running.attempts >= _ATTEMPTS:
            raise ServiceError(
                f"the process for {title} was lost {running.attempts} times, the last time because {reason}; mend the "
                "cause, such as too little memory for the stage, and run the same command again"
            )
        self._context.say(
            f"{title}: its process was lost ({reason}); it is submitted again, and resumes if it has a checkpoint"
        )
        self._submit(running.node, running.attempts, is_here=running.is_here)

    def _remove(self, running: _Running) -> None:
        self._running.remove(running)
        self._show_places()

    def _show_places(self) -> None:
        places = [{"title": each.node.title, **each.place} for each in self._running if each.place]
        write_beside(self._folder / PLACES, json.dumps(places))


def _asks_services(context: Context, node: Node) -> bool:
    """Return whether teachers answer, perhaps for money, that do not compute in their process, while a stage is made."""
    if node.kind not in ("text", "scores"):
        return False
    return not all(computes(context.assembly.shared[name]) for name in node.teachers)


def _error_of(handle: Submitted) -> Exception | None:
    try:
        handle.result()
    except Exception as error:
        return error
    return None


class LocalProcess:
    """A command that runs on this machine; its output goes into a file."""

    def __init__(self, command: list[str], output: Path) -> None:
        with create(output) as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # noqa: S603

    def done(self) -> bool:
        """Return whether it has ended."""
        return self._process.poll() is not None

    def result(self) -> None:
        """Raise if it failed."""
        if code := self._process.poll():
            raise ChildProcessError(f"exit code {code}")

    def cancel(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()


_REQUEST = "request.json"
_MESSAGE = "kdtool_message"


def write_request(folder: Path, recipe: Recipe, store: Path, *, offline: bool, run: str) -> None:
    """Write how workers open the run: the recipe as it was given, and the store; `run` is unique to this process."""
    given, settings = recipe.given
    given = str(given.absolute()) if isinstance(given, Path) else given
    request = {"recipe": given, "settings": settings, "cwd": os.getcwd()}  # noqa: PTH109
    request |= {"store": str(store), "offline": offline, "run": run}
    write_beside(folder / TASKS / _REQUEST, json.dumps(to_jsonable_python(request, fallback=str)))


def read_request(folder: Path) -> dict[str, Any]:
    """Return the request of the run in `folder`."""
    request: dict[str, Any] = json.loads((folder / TASKS / _REQUEST).read_text(encoding="utf-8"))
    return request


def events_file(folder: Path, name: str, attempt: str) -> Path:
    """Return the file with the events of a task."""
    return folder / TASKS / f"{name.replace('/', '-')}-{attempt}.jsonl"


class TaskLog:
    """Writes the events of a task, a line at once; a `Log` of `kdtool._plugins.events`."""

    def __init__(self, file: Path) -> None:
        self._file = open_to_append(file, PRIVATE)
        self._said = ""

    def begin(self) -> None:
        """Write where the task is."""
        self._append({"host": platform.node(), "pid": os.getpid()})

    def write(self, hook: str, values: Mapping[str, Any]) -> None:
        """Write the call of a tracker's hook, unless the disk is full: the stage does not need it."""
        if hook == _MESSAGE:
            self._said = values["text"]
        with suppress(OSError):
            self._append({"hook": hook, "values": {name: value for name, value in values.items() if name != "run"}})

    def say(self, text: str) -> None:
        """Write a line for the user, unless it was the last message."""
        if text != self._said:
            self.write(_MESSAGE, {"text": text})

    def fail(self, error: BaseException) -> None:
        """Write why the task failed."""
        known = next((cls.__name__ for cls in type(error).__mro__ if cls.__module__ == _errors.__name__), "")
        text = describe(error) if known else f"{owner_of(error) or 'kdtool'}: {cause_of(error)}"
        trace = "".join(traceback.format_exception(error))
        self._append({"failed": known, "text": text, "trace": trace})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        append_line(self._file, json.dumps(to_jsonable_python(line, fallback=str)).encode() + b"\n")


def failure(title: str, line: Mapping[str, str]) -> KdtoolError:
    """Return the error of a task's last line as it was raised there, with its traceback as the cause."""
    cls = getattr(_errors, line["failed"], KdtoolError)
    text = line["text"] if line["failed"] else f"{title} failed: {line['text']}"
    error: KdtoolError = (UsageError if issubclass(cls, RecipeError) else cls)(text)
    error.__cause__ = RuntimeError(f"in the worker:\n{line['trace']}")
    return error
