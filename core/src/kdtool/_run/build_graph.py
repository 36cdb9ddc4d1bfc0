"""The graph of a run: nodes with their dependencies.

text → teachers that are trained → untrained students → scores of teachers → rows → signals → rows of samples and phases
of every seed and arm → exports → scores of all others.
`execute` makes the nodes, and adds comparison and report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdtool._contract.language_model import ModelFacts, facts_in
from kdtool._contract.run_info import RunInfo
from kdtool._recipe.model import ARMS, SELF
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node
from kdtool._run.preflight.first_rows import try_packers
from kdtool._run.preflight.refusals import identify
from kdtool._run.preflight.vocabularies import compare_with_teachers
from kdtool._run.stages.exports import add_exports
from kdtool._run.stages.own_rows import MatchedTokens, add_own_rows
from kdtool._run.stages.phases import MatchedTime, TrainedModel, add_arm
from kdtool._run.stages.rows import Materials, Recording, add_data
from kdtool._run.stages.scores import Measured, add_scores, subjects_of
from kdtool._run.stages.shapes import Shapes
from kdtool._run.stages.students import add_students
from kdtool._run.stages.teachers import add_teachers
from kdtool._run.stages.texts import add_texts


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
    """Return the shapes of the students and teachers that describe themselves, by name."""
    described = context.hooks.kdtool_describe(run)
    return {name: facts for name, model in described.items() if (facts := facts_in(model)) is not None}


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
