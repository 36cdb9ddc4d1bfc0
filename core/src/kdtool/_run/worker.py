"""Makes one stage of a run in a process that an executor started.

    python -m kdtool._run.worker FOLDER STAGE ATTEMPT

A process that makes several stages of one run assembles its recipe and builds its graph once.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import assemble
from kdtool._errors import StorageError, UsageError, cause_of, is_interrupt
from kdtool._plugins.hooks import translate_errors
from kdtool._recipe.parser import load_recipe
from kdtool._run.context import Context
from kdtool._run.dispatch import TaskLog, events_file, read_request
from kdtool._run.graph import Graph, Node, changes, read_record
from kdtool._run.plan import check_and_build_graph
from kdtool._run.preflight import licences_of
from kdtool._store.shared import TASKS, recorded_holder

PATIENCE = 60.0
"""Seconds until a file that another machine wrote must be visible on a shared file system."""
_LAST_WAIT = 60.0
"""Seconds until torchrun has ended the ranks that fail because another one is gone; it may take 30 itself."""
_NOT_IN_WORKERS = {"tracker", "reporter", "executor"}
"""Kinds that take part only in the process of the run."""


@dataclass(frozen=True)
class _Opened:
    """A run as this process sees it."""

    request: dict[str, Any]
    context: Context
    graph: Graph

    @classmethod
    def of(cls, folder: Path, request: dict[str, Any]) -> _Opened:
        """Read the recipe again and build the graph; nothing is made."""
        os.chdir(request["cwd"])
        given = request["recipe"]
        recipe = load_recipe(Path(given) if isinstance(given, str) else given, request["settings"])
        shared = tuple(spec for spec in recipe.shared if spec.kind not in _NOT_IN_WORKERS)
        assembly = assemble(replace(recipe, shared=shared), _complain)
        atexit.register(assembly.__exit__)
        store, licences = Path(request["store"]), licences_of(assembly)
        context = Context.of(assembly, folder, store, offline=request["offline"], licences=licences)
        context.is_worker = True
        return cls(request, context, check_and_build_graph(context).graph)

    def make(self, name: str, attempt: str, log: TaskLog | None) -> None:
        """Make one stage, with the other ranks of torchrun if there are any."""
        context = self.context
        node = _agree_on(self.graph, name, context.folder)
        for source in node.sources.values():
            _wait_for(source)
            if source.name not in context.made and (artefact := source.where.find(*source.key)):
                context.made[source.name] = artefact
        if context.world > 1:
            context.leader = {**(recorded_holder(context.folder) or {"id": ""}), "attempt": attempt}
        if log:
            context.assembly.events.begin(context.info(), log)
        context.make(node)


_opened: dict[Path, _Opened] = {}
"""The run that this process opened last, by its folder."""
_logs: list[TaskLog] = []
"""The log of the stage that this process makes."""


def _complain(text: str) -> None:
    """Show a line for the user: that of a failed component, or one that was logged as a message just now."""
    for log in _logs:
        log.say(text)


def make_stage(folder: Path, name: str, attempt: str) -> None:
    """Make a stage of the run in `folder`; events and errors go into the folder, errors are raised, too.

    Raises:
        StorageError: the folder is not visible here.
    """
    if not (folder / TASKS).is_dir():
        raise StorageError(
            f"a worker does not see {folder / TASKS}; the run's folder and the store must be on a file system that all "
            "machines share: choose such --out and --store, and run again"
        )
    with closing(TaskLog(events_file(folder, name, attempt))) as log:
        is_first = os.environ.get("RANK", "0") == "0"
        if is_first:
            log.begin()
            _logs[:] = [log]
        try:
            with translate_errors():
                _open(folder).make(name, attempt, log if is_first else None)
        except BaseException as error:
            if not is_interrupt(error):  # a scheduler that takes the machine away: made again elsewhere
                if int(os.environ.get("WORLD_SIZE", "1")) > 1 and isinstance(error, RuntimeError):
                    _wait_for_end(error, log)
                log.fail(error)
            raise


def _wait_for_end(error: RuntimeError, log: TaskLog) -> None:
    """Wait until torchrun has ended this process, if another rank is lost: collectives raise such errors then.

    The stage of a lost rank is made again, but an error that is written ends the run.
    """
    log.say(f"{cause_of(error)}; this process waits {_LAST_WAIT:.0f} s, in case it failed because another one was lost")
    time.sleep(_LAST_WAIT)


def _open(folder: Path) -> _Opened:
    request = read_request(folder)
    if folder not in _opened or _opened[folder].request != request:
        for opened in _opened.values():
            opened.context.assembly.__exit__()
        _opened.clear()
        _opened[folder] = _Opened.of(folder, request)
    return _opened[folder]


def _agree_on(graph: Graph, name: str, folder: Path) -> Node:
    """Return the stage of that name.

    Raises:
        UsageError: this process would make something else than the process of the run expects.
    """
    node, expected = graph.nodes.get(name), read_record(folder).get("nodes", {})
    if node and name in expected and expected[name]["fingerprint"] == node.fingerprint:
        return node
    why = "; ".join(changes(node, expected)) if node and name in expected else "it does not have this stage"
    raise UsageError(
        f"a worker would not make the same {name} as the run expects ({why}); give all machines the same recipe, files, "
        "code and packages, and run the same command again"
    )


def _wait_for(source: Node) -> None:
    deadline = time.monotonic() + PATIENCE
    while not source.exists:
        if time.monotonic() > deadline:
            raise StorageError(
                f"{source.path} is complete, but a worker does not see it; the run's folder and the store must be on a "
                "file system that all machines share"
            )
        time.sleep(0.1)


def _end_with_parent() -> None:
    """End this process when torchrun, which started it, is gone: a killed one does not end them."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="kdtool parent").start()


def _stop_in_time() -> None:
    """Have SIGTERM raise KeyboardInterrupt, so that a teacher waits for paid requests under way.

    Ctrl-C reaches the process of the run, too, which then sends SIGTERM: only one of the two counts.
    """

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    if "WORLD_SIZE" in os.environ:
        _end_with_parent()
    else:
        _stop_in_time()
    make_stage(Path(sys.argv[1]), *sys.argv[2:])
