"""Teachers that learn before they teach: the phases that train them, each an artefact in the store that runs share.

`build_graph` adds them before everything that asks the teacher. They are trained once for all seeds and arms, with seed 0.
"""

from __future__ import annotations

from functools import partial

from kdtool._assembly.checks.dependencies import taken_by
from kdtool._assembly.checks.teacher_training import adapting_phases, trained_teacher
from kdtool._contract.language_model import Runtime
from kdtool._contract.run_info import RunInfo
from kdtool._contract.teacher import Teacher
from kdtool._recipe.model import PhaseSpec
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node, Stage
from kdtool._run.stages.phases import Arm, Learner, phase_node
from kdtool._run.stages.rows import Materials, add_rows, add_texts, corpora_of

__all__ = ["add_adapted"]

_SEED = 0


def add_adapted(context: Context, graph: Graph) -> tuple[dict[str, Materials], tuple[Arm, ...]]:
    """Add the phases that train teachers; each goes on with what the one before it left of the same teacher.

    From then on `context.speaking` says that they speak with what they learnt.

    Returns:
        What each phase trains on, by its name, and the phases of each teacher.
    """
    recipe = context.assembly.recipe
    materials: dict[str, Materials] = {}
    trained: dict[str, list[tuple[PhaseSpec, Node]]] = {}
    named = ((phase, trained_teacher(recipe, phase)) for phase in adapting_phases(recipe))
    phases = [(phase, spec.path) for phase, spec in named if spec]
    said_by = taken_by(corpora_of(context, recipe.shared), context.assembly.shared)
    if not {teacher for _, teacher in phases} & set(said_by):
        add_texts(context, graph, recipe.shared)  # else the recipe's text is what the teachers say afterwards
    for phase, teacher in phases:
        materials[phase.name] = add_rows(context, graph, phase, teacher, {})
        learner = Learner(
            partial(_open, teacher),
            context.store,
            shared=True,
            parts={"trains": context.part(teacher)},
            teachers=context.speaking([teacher]),
        )
        stage = Stage("teachers", f"{teacher}-{phase.name}", teacher, _SEED, "steps", phase.name)
        node = graph.add(phase_node(context, stage, phase, learner, materials[phase.name]))
        context.adapted[teacher] = node
        trained.setdefault(teacher, []).append((phase, node))
    arms = (
        Arm(teacher, _SEED, tuple(phase for phase, _ in found), tuple(node for _, node in found))
        for teacher, found in trained.items()
    )
    return materials, tuple(arms)


def _open(teacher: str, run: RunInfo) -> Runtime:
    return run.component(teacher, Teacher).kdtool_trainable(run)
