"""The plan of a run: its graph, the stages that are reused, those that run, and why.

`build_graph` adds the nodes: text → teachers that are trained → untrained students → scores of teachers → rows → signals →
rows of samples and phases of every seed and arm → exports → scores of all others. `execute` makes them, and adds comparison
and report.

`kdtool run --plan` prints what `plan_run` returns; nothing is made, fetched or locked. The reasons come from comparing the
graph with that of the last run of this name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kdtool._assembly.assemble import Assembly
from kdtool._contract.data import RowSource
from kdtool._contract.language_model import ModelFacts, Tokenizer, facts_in
from kdtool._contract.reporting import ComponentRecord
from kdtool._contract.run_info import RunInfo
from kdtool._contract.signals import SignalRequest
from kdtool._contract.sources import SignalSource
from kdtool._errors import StorageError
from kdtool._recipe.model import ARMS, SELF
from kdtool._results.files import component_record
from kdtool._run.comparability import compare_with_teachers, require_windows
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node, changes, read_record
from kdtool._run.preflight import identify, licences_of, try_packers
from kdtool._run.stages.data import Materials, Recording, add_data, add_texts, rows_of
from kdtool._run.stages.phases import MatchedTime, MatchedTokens, TrainedModel, add_arm, add_own_rows, add_teachers
from kdtool._run.stages.scores import Measured, add_exports, add_scores, subjects_of
from kdtool._run.stages.students import Shapes, add_students
from kdtool._run.stages.terms import from_cache


@dataclass(frozen=True)
class RunGraph:
    """A run's graph, with its nodes by their role.

    `materials` are by phase, `exports` by exporter, `scores` by evaluator; `teachers` are those trained.
    """

    graph: Graph
    texts: Node
    students: Mapping[int, Node]
    materials: Mapping[str, Materials]
    arms: tuple[TrainedModel, ...]
    teachers: tuple[TrainedModel, ...]
    exports: Mapping[str, Node]
    measured: tuple[Measured, ...]
    scores: Mapping[str, Sequence[Node]]

    @property
    def recordings(self) -> dict[str, Recording]:
        """The recordings of signals by the names of their stages, each once."""
        return _recordings(self.materials)


def check_and_build_graph(context: Context) -> RunGraph:
    """Identify the components, compare vocabularies, try packers and build the graph of a run; nothing is made.

    Raises:
        KdtoolError: a component refuses: a file is missing, tokenizers differ, a model does not describe itself.
    """
    run = context.info()
    identify(context, run)
    compare_with_teachers(context, run)
    try_packers(context, run)
    return build_graph(context, described_models(context, run))


def described_models(context: Context, run: RunInfo) -> dict[str, ModelFacts]:
    """Return the shapes of the students and teachers that describe themselves, by name. Raises as `require_windows`."""
    described = context.hooks.kdtool_describe(run)
    found = {name: facts for name, model in described.items() if (facts := facts_in(model)) is not None}
    require_windows(context.assembly, found)
    return found


def build_graph(context: Context, described: Mapping[str, ModelFacts]) -> RunGraph:
    """Build the graph of a run of components that are identified, and of models that are `described`; nothing is made."""
    graph = Graph()
    materials, trained = add_teachers(context, graph)
    texts = add_texts(context, graph, context.assembly.recipe.shared)
    students = add_students(context, graph, texts)
    ahead = len(graph.nodes)
    materials_of_student = add_data(context, graph, Shapes.of(context, described, students))
    arms = _add_arms(context, graph, students, materials_of_student, trained)
    exports = add_exports(context, graph, arms[0], texts)
    measured = subjects_of(context, arms, exports, students)
    scores = add_scores(context, graph, measured, texts)
    graph = _teachers_first(graph, ahead)
    materials = materials_of_student | materials
    return RunGraph(graph, texts, students, materials, tuple(arms), trained, exports, tuple(measured), scores)


def _teachers_first(graph: Graph, ahead: int) -> Graph:
    """Move the scores that need no training right after the first `ahead` nodes: of teachers and of the base.

    So a missing key, a server that does not answer or a model that does not fit is known before hours are spent.
    """
    nodes, early = list(graph.nodes.values()), list[Node]()
    for node in nodes:
        if node.kind == "scores" and all(
            role in {"texts", "base"} or source in early for role, source in node.sources.items()
        ):
            early.append(node)
    rest = [node for node in nodes[ahead:] if node not in early]
    ordered = Graph()
    for node in (*nodes[:ahead], *early, *rest):
        ordered.add(node)
    return ordered


def _recordings(materials: Mapping[str, Materials]) -> dict[str, Recording]:
    recordings = (recording for data in materials.values() for recording in data.recordings.values())
    return {recording.node.name: recording for recording in recordings}


def _add_arms(
    context: Context,
    graph: Graph,
    students: Mapping[int, Node],
    materials: Mapping[str, Materials],
    teachers: Sequence[TrainedModel],
) -> list[TrainedModel]:
    """Add every arm with every seed; a time-matched control comes after the arms that decide its steps."""
    trained = (node for arm in teachers for node in arm.nodes)
    signals = (recording.node for recording in _recordings(materials).values())
    costs = tuple(dict.fromkeys((*signals, *trained, *context.adapted.values())))
    control = context.assembly.recipe.control
    by_seed: list[dict[str, TrainedModel]] = []
    for seed in context.assembly.recipe.seeds:
        samples = (
            add_own_rows(context, graph, control.own, materials, students[seed]) if control and control.own else {}
        )
        sampled = tuple(data.rows for data in samples.values())
        arms: dict[str, TrainedModel] = {}
        for name in context.assembly.arms:
            matched: MatchedTime | MatchedTokens | None = None
            if name == ARMS["time"]:
                matched = MatchedTime(arms["student"], arms[ARMS["tokens"]], costs)
            elif name == SELF[ARMS["tokens"]]:
                matched = MatchedTokens(materials, samples)
            elif name == SELF[ARMS["time"]]:
                matched = MatchedTime(arms["student"], arms[SELF[ARMS["tokens"]]], costs, sampled)
            data = samples if name in SELF.values() else materials
            arms[name] = add_arm(context, graph, name, seed, students[seed], data, matched)
        by_seed.append(arms)
    return [arms[name] for name in context.assembly.arms for arms in by_seed]


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
