"""What a run would do: which stages are reused, which run, and why. Nothing is made, fetched or locked.

`kdtool run --plan` prints it. The reasons come from comparing the graph with the one that the last run of this name left
in its folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kdtool._assembly.assemble import Assembly
from kdtool._contract.data import RowSource
from kdtool._contract.reporting import ComponentRecord
from kdtool._contract.signals import SignalRequest
from kdtool._contract.teacher import SignalSource, Teacher
from kdtool._contract.tokenizer import Tokenizer
from kdtool._errors import StorageError
from kdtool._recipe.model import of_kind
from kdtool._results.files import component_record
from kdtool._run.build_graph import Stages, add_stages
from kdtool._run.context import Context
from kdtool._run.graph import Node, Stage
from kdtool._run.preflight.licences import licences_of
from kdtool._run.stages.rows import rows_of
from kdtool._run.stages.signals import from_cache
from kdtool._store.atomic_files import read_sealed
from kdtool._store.layout import GRAPH

__all__ = ["PlannedStage", "RecordedSignals", "changes", "last_nodes", "plan_run"]


@dataclass(frozen=True)
class RecordedSignals:
    """Signals that a cache records: whose they are, what is kept of them, where they lie, and how they are read.

    Attributes:
        teacher: who gives them.
        cache: who records and recalls them.
        want: what all phases that learn from them want.
        folder: where they are or will be; of an interrupted recording, where there is what it has so far.
    """

    teacher: ComponentRecord
    cache: ComponentRecord
    want: SignalRequest
    folder: Path
    _rows: Node = field(repr=False, compare=False)
    _context: Context = field(repr=False, compare=False)

    @contextmanager
    def opened(self) -> Iterator[tuple[RowSource, Tokenizer, SignalSource]]:
        """Give the rows, the teacher's tokenizer, which reads them, and what the cache recalls of them.

        The components are made for this, and closed afterwards. Since 0.1.

        Raises:
            StorageError: the signals or their rows are not there.
        """
        for what, there in (("signals", self.folder.is_dir()), ("rows of the signals", self._rows.exists)):
            if not there:
                raise StorageError(f"the {what} of {self.teacher.name} are not there; run the recipe to make them")
        with self._context.assembly.reopen() as assembly:
            context = replace(self._context, assembly=assembly, hooks=assembly.hooks())
            run = context.info(Stage("signals"), context.folder)
            tokenizer = context.hooks.component(self.teacher.name, Teacher).kdtool_tokenizer(run)
            source = from_cache(context.hooks, self.cache.name, self.want, self.folder)
            yield rows_of(self._rows), tokenizer, source


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run that has not begun.

    Attributes:
        name: such as `rows` or `phases/student-seed0-train`.
        action: "reuse" what is there, "continue" what was interrupted, or "run".
        why: what has changed since the last run, a line each; empty where it is reused.
        path: the folder in which its artefact is, or will be.
        signals: what there is to know of recorded signals; None for all other stages.
    """

    name: str
    action: Literal["reuse", "continue", "run"]
    why: tuple[str, ...] = ()
    path: Path = Path()
    signals: RecordedSignals | None = field(default=None, compare=False)


def plan_run(assembly: Assembly, folder: Path, store: Path) -> tuple[PlannedStage, ...]:
    """Return what a run of the assembly would do, in order.

    Where the untrained student is not there yet, its layers are taken as it describes them beforehand: what is reused of
    signals may then differ, if a loss asks for layers.

    Args:
        assembly: the recipe with its plugins.
        folder: the run's own folder; it need not exist.
        store: the folder that runs share.

    Raises:
        ServiceError: a tokenizer is not on this machine, and a plan fetches nothing.
    """
    context = Context.of(assembly, folder, store, licences=licences_of(assembly, assembly.hooks()))
    stages = add_stages(context, make=lambda *_: None)
    before, signals = last_nodes(folder), dict(_signals(context, stages))
    return tuple(
        replace(_planned(node, before), path=node.path, signals=signals.get(name))
        for name, node in stages.graph.nodes.items()
    )


def last_nodes(folder: Path) -> Mapping[str, Any]:
    """Return the nodes of the last run; none where there is no record, or one that cannot be read."""
    try:
        nodes: Mapping[str, Any] = json.loads(read_sealed(folder / GRAPH, "Run again: it is written anew"))["nodes"]
    except (FileNotFoundError, StorageError):
        return {}
    return nodes


def _signals(context: Context, stages: Stages) -> Iterator[tuple[str, RecordedSignals]]:
    """Yield what there is to know of the recorded signals, by the names of their stages."""
    built = context.assembly.built_for()
    for phase in context.assembly.arms["student"]:
        own = stages.materials[phase.name]
        for teacher, node in own.signals.items():
            (cache,) = of_kind(phase.sources, "cache")
            kinds, layers, temperature = node.parts["want"]
            folder = _partial(node) if _partial(node).is_dir() and not node.exists else node.path
            who = component_record(built[teacher]), component_record(built[cache.path])
            want = SignalRequest(frozenset(kinds), tuple(layers), temperature)
            rows = own.teacher_rows.get(teacher, own.rows)
            yield node.name, RecordedSignals(*who, want, folder, rows, context)


def _partial(node: Node) -> Path:
    return node.path.with_name(node.path.name + ".partial")


def _planned(node: Node, before: Mapping[str, Any]) -> PlannedStage:
    if node.exists:
        return PlannedStage(node.name, "reuse")
    last = before.get(node.name)
    if _partial(node).is_dir():
        return PlannedStage(node.name, "continue", ("it was interrupted",))
    if last is None:
        return PlannedStage(
            node.name, "run", ("it was not part of this run before" if before else "nothing is there yet",)
        )
    if last["fingerprint"] == node.fingerprint:
        return PlannedStage(node.name, "run", ("it was not finished, or has been deleted",))
    return PlannedStage(node.name, "run", changes(node, before))


def changes(node: Node, before: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in what a node differs from the one of its name among `before`, a line each."""
    last = before[node.name]
    old, new = dict(_flat(last["parts"])), dict(_flat(node.parts))
    changed = [f"{key}: {_change(key, old, new)}" for key in {**old, **new} if old.get(key) != new.get(key)]
    inputs = [_input_change(role, other, last, before) for role, other in node.sources.items()]
    gone = [f"{role} is no longer used" for role in last["inputs"] if role not in node.sources]
    return (*changed, *(text for text in inputs if text), *gone)


def _input_change(role: str, other: Node, last: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    name = last["inputs"].get(role)
    if name is None:
        return f"{role} is new: {other.name}"
    return "" if before[name]["fingerprint"] == other.fingerprint else f"{other.name} changes"


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings and lists with readable keys: `student.config.layers`."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else None
    if items is None:
        yield prefix, data
        return
    for key, value in items:
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _change(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if key.rpartition(".")[2] == "source" or ".libraries." in key:
        return "the code changed"
    if ".identity." in key:
        return "the content changed"
    return " → ".join(_shown(values, key) for values in (old, new))


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "(not there)"
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
