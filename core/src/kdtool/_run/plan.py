"""Plan of a run: the stages that are reused, those that run, and why. Nothing is made, fetched or locked.

`kdtool run --plan` prints it. The reasons come from comparing the graph with that of the last run of this name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kdtool._assembly.assemble import Assembly
from kdtool._contract.data import RowSource
from kdtool._contract.reporting import ComponentRecord
from kdtool._contract.signals import SignalRequest
from kdtool._contract.teacher import SignalSource
from kdtool._contract.tokenizer import Tokenizer
from kdtool._errors import StorageError
from kdtool._results.files import component_record
from kdtool._run.build_graph import RunGraph, check_and_build_graph
from kdtool._run.changes import changes
from kdtool._run.context import Context
from kdtool._run.graph import Node, read_record
from kdtool._run.preflight.licences import licences_of
from kdtool._run.stages.rows import rows_of
from kdtool._run.stages.signals import from_cache

_Action = Literal["reuse", "continue", "run"]


@dataclass(frozen=True)
class RecordedSignals:
    """Signals that a cache records, and access to them.

    Attributes:
        teacher: the teacher that computes them.
        cache: the cache that records and recalls them.
        want: the request of all phases that learn from them.
        folder: the folder in which they are or will be; of an interrupted recording, that of its part so far.
    """

    teacher: ComponentRecord
    cache: ComponentRecord
    want: SignalRequest
    folder: Path
    _rows: Node = field(repr=False, compare=False)
    _context: Context = field(repr=False, compare=False)

    @contextmanager
    def open(self) -> Iterator[tuple[RowSource, Tokenizer, SignalSource]]:
        """Yield the rows, the teacher's tokenizer, which decodes them, and the recorded signals.

        Components are built for this, and closed afterwards. Since 0.1.

        Raises:
            StorageError: the signals or their rows are not there.
        """
        for what, there in (("signals", self.folder.is_dir()), ("rows of the signals", self._rows.exists)):
            if not there:
                raise StorageError(f"the {what} of {self.teacher.name} are not there; run the recipe to make them")
        with self._context.assembly.reopen() as assembly:
            context = replace(self._context, assembly=assembly, hooks=assembly.hooks())
            tokenizer = context.tokenizer_of(self.teacher.name, replace(context.info(), stage="signals"))
            source = from_cache(context.hooks, self.cache.name, self.want, self.folder)
            yield rows_of(self._rows), tokenizer, source


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run that has not begun.

    Attributes:
        name: such as `rows` or `phases/student-seed0-train`.
        title: the stage in words, such as "training of student, seed 0".
        action: "reuse" a complete artefact, "continue" an interrupted one, or "run".
        why: the changes since the last run, a line each, such as `ce.weight 1.0 → 0.2`; empty where it is reused.
        path: the folder in which its artefact is, or will be.
        signals: recorded signals; None for all other stages.
    """

    name: str
    title: str
    action: _Action
    why: tuple[str, ...] = ()
    path: Path = Path()
    signals: RecordedSignals | None = field(default=None, compare=False)


def plan_run(assembly: Assembly, folder: Path, store: Path) -> tuple[PlannedStage, ...]:
    """Return the stages of a run of the assembly, in order.

    Raises:
        ServiceError: a tokenizer is not on this machine, and a plan fetches nothing.
    """
    context = Context.of(assembly, folder, store, licences=licences_of(assembly))
    run_graph = check_and_build_graph(context)
    before, signals = read_record(folder).get("nodes", {}), dict(_signals(context, run_graph))
    return tuple(
        PlannedStage(name, node.title, *_action(node, before), node.path, signals.get(name))
        for name, node in run_graph.graph.nodes.items()
    )


def _signals(context: Context, run_graph: RunGraph) -> Iterator[tuple[str, RecordedSignals]]:
    """Yield the recorded signals by the names of their stages."""
    built = context.assembly.built_for()
    for name, recording in run_graph.recordings.items():
        node, wanted = recording.node, recording.wanted
        folder = node.partial if node.partial.is_dir() and not node.exists else node.path
        teacher, cache = (component_record(built[component]) for component in (wanted.teacher, recording.cache))
        made = all(student.exists for student in wanted.shapes.untrained.values())
        want = wanted.request() if made else wanted.request_ahead()
        yield name, RecordedSignals(teacher, cache, want, folder, recording.rows, context)


def _action(node: Node, before: Mapping[str, Any]) -> tuple[_Action, tuple[str, ...]]:
    """Return the action for a node and its reasons; `before` are the nodes of the last run."""
    if node.exists:
        return "reuse", ()
    if node.partial.is_dir():
        return "continue", ("it was interrupted",)
    if node.name not in before:
        return "run", ("it was not part of this run before" if before else "nothing is there yet",)
    return "run", changes(node, before) or ("it is not there: not finished, deleted, or in another store",)
