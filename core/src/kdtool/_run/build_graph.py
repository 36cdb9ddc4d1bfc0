"""The stages of a run, as a graph of nodes: what depends on what.

text → phases that train teachers → untrained students → scores of teachers → rows → signals → phases of every seed and arm →
exports → scores of all others.
The runner makes the nodes, and adds comparison and report. Only the untrained students, and what they are made from, are
asked to be made on the way, since which of the teacher's layers they were cut from decides what a loss wants of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdtool._assembly.checks.teacher_training import adapting_phases
from kdtool._contract.component import Component
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.run_info import RunInfo
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node, Stage
from kdtool._run.preflight.vocabularies import compared
from kdtool._run.stages.exports import add_exports
from kdtool._run.stages.phases import Arm, MatchedTime, add_arm
from kdtool._run.stages.rows import Materials, add_data, add_texts, try_packers
from kdtool._run.stages.scores import Measured, add_scores, subjects_of
from kdtool._run.stages.students import add_students, facts_of
from kdtool._run.stages.teachers import add_adapted

__all__ = ["Stages", "add_stages"]

_TIME_ARM = "control-time"


@dataclass(frozen=True)
class Stages:
    """A run's graph, and which node is what.

    `materials` are by phase, `exports` by exporter, `scores` by evaluator; `teachers` are those trained.
    """

    graph: Graph
    texts: Node
    students: Mapping[int, Node]
    materials: Mapping[str, Materials]
    arms: tuple[Arm, ...]
    teachers: tuple[Arm, ...]
    exports: Mapping[str, Node]
    measured: tuple[Measured, ...]
    scores: Mapping[str, Sequence[Node]]

    @property
    def signals(self) -> tuple[Node, ...]:
        """The recorded signals, each once."""
        return tuple({node.name: node for own in self.materials.values() for node in own.signals.values()}.values())


def add_stages(context: Context, make: Callable[[Graph, Node], object]) -> Stages:
    """Build the graph of a run.

    Args:
        context: the run.
        make: is given the graph up to the untrained students, and the node of the run's text; where it makes nothing (in a
            plan) and they are not there, the shapes that the student describes beforehand are taken.

    Raises:
        KdtoolError: a component refuses: a file is missing, tokenizers differ, a model does not describe itself.
    """
    run = context.info(Stage("run"), context.folder)
    graph = Graph()
    _identify(context, run)
    context.vocabularies.update({name: found for name, found in compared(context, run).items() if found})
    try_packers(context, run)
    adapting, trained = add_adapted(context, graph)
    texts = add_texts(context, graph, context.assembly.recipe.shared)
    students = add_students(context, graph, texts)
    make(graph, texts)
    ahead = len(graph.nodes)
    materials = add_data(context, graph, _facts(context, run, next(iter(students.values()))))
    arms = _add_arms(context, graph, students, materials, trained)
    exports = add_exports(context, graph, arms[0])
    measured = subjects_of(context, arms, exports)
    scores = add_scores(context, graph, measured, texts)
    materials.update(adapting)
    graph = _teachers_first(graph, ahead)
    return Stages(graph, texts, students, materials, tuple(arms), trained, exports, tuple(measured), scores)


def _teachers_first(graph: Graph, ahead: int) -> Graph:
    """Have what is measured of teachers alone made behind the first nodes, before anything is trained.

    So a key that is not set, a server that does not answer or a model that does not fit is known before hours are spent.
    """
    nodes = list(graph.nodes.values())
    early = [node for node in nodes if node.stage.kind == "scores" and set(node.sources) <= {"texts"}]
    rest = [node for node in nodes[ahead:] if node not in early]
    return Graph({node.name: node for node in (*nodes[:ahead], *early, *rest)})


def _identify(context: Context, run: RunInfo) -> None:
    context.identities.update(context.hooks.kdtool_identity(run))
    arms = [*context.assembly.arms.values(), adapting_phases(context.assembly.recipe)]
    for phase in (phase for phases in arms for phase in phases):
        hooks = context.assembly.hooks(phase)
        own = [spec.path for spec in phase.components if spec.path in hooks.implementing("kdtool_identity")]
        context.identities.update({name: hooks.component(name, Component).kdtool_identity(run) or {} for name in own})


def _facts(context: Context, run: RunInfo, student: Node) -> dict[str, ModelFacts]:
    """Return the shapes of the models that describe themselves, by component, and of the student as it was built."""
    (name,) = context.assembly.of_kind("student")
    built = {name: facts_of(student)} if student.exists else {}
    return {**context.hooks.kdtool_describe(run), **built}


def _add_arms(
    context: Context,
    graph: Graph,
    students: Mapping[int, Node],
    materials: Mapping[str, Materials],
    teachers: Sequence[Arm],
) -> list[Arm]:
    """Add every arm with every seed; of a seed the time-matched control comes last, when the others' speeds are known."""
    costs = {node.name: node for own in materials.values() for node in own.signals.values()}
    costs |= {node.name: node for arm in teachers for node in arm.nodes}
    found: list[Arm] = []
    for seed in context.assembly.recipe.seeds:
        by_arm: dict[str, Arm] = {}
        for arm in context.assembly.arms:
            matched = None
            if arm == _TIME_ARM:
                matched = MatchedTime(by_arm["student"], by_arm["control"], tuple(costs.values()))
            stage = Stage("phases", arm=arm, seed=seed)
            by_arm[arm] = add_arm(context, graph, stage, students[seed], materials, matched)
        found.extend(by_arm.values())
    return sorted(found, key=lambda arm: list(context.assembly.arms).index(arm.arm))
