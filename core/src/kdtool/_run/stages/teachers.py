"""Phases that fine-tune a teacher before distillation.

Each is an artefact in the store that runs share. `build_graph` adds them before everything that asks the teacher. They are
made once for all seeds and arms, with seed 0.
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
from kdtool._run.graph import Graph, Node
from kdtool._run.stages.phases import TrainedModel, phase_node
from kdtool._run.stages.rows import Materials, add_rows
from kdtool._run.stages.shapes import Shapes
from kdtool._run.stages.texts import add_texts, corpora_of

_SEED = 0


def add_teachers(context: Context, graph: Graph) -> tuple[dict[str, Materials], tuple[TrainedModel, ...]]:
    """Add the phases that train teachers; each continues with the weights that the one before left of the same teacher.

    Records the last node of each teacher in `context.adapted`, so that later nodes use its weights.

    Returns:
        The data of each phase, by its name, and the phases of each teacher.
    """
    recipe = context.assembly.recipe
    (student,) = context.assembly.of_kind("student")
    materials: dict[str, Materials] = {}
    trained: dict[str, list[tuple[PhaseSpec, Node]]] = {}
    named = ((phase, trained_teacher(recipe, phase)) for phase in adapting_phases(recipe))
    phases = [(phase, spec.path) for phase, spec in named if spec]
    authors = taken_by(corpora_of(context, recipe.shared), context.assembly.shared)
    if not {teacher for _, teacher in phases} & set(authors):  # no trained teacher writes the recipe's text
        add_texts(context, graph, recipe.shared)
    for phase, teacher in phases:
        data = materials[phase.name] = add_rows(context, graph, phase, teacher, Shapes(student, {}))
        node = graph.add(phase_node(context, teacher, _SEED, phase, data, partial(_open, teacher), {}, {}))
        context.adapted[teacher] = node
        trained.setdefault(teacher, []).append((phase, node))
    return materials, tuple(
        TrainedModel(teacher, _SEED, tuple(phase for phase, _ in made), tuple(node for _, node in made))
        for teacher, made in trained.items()
    )


def _open(teacher: str, run: RunInfo) -> Runtime:
    return run.component(teacher, Teacher).kdtool_trainable(run)
