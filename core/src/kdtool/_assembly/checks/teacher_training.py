"""Phases that fine-tune a teacher before distillation.

They run before all other phases, regardless of their order: a recipe that extends another can only append phases.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdtool._assembly.built import BuiltRecipe
from kdtool._errors import Problem
from kdtool._plugins.hook_specs import implements
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, of_kind
from kdtool._text.did_you_mean import did_you_mean

_NEEDED = ("kdtool_trainable", "kdtool_load_weights")


def adapting_phases(recipe: Recipe) -> tuple[PhaseSpec, ...]:
    """Return the phases that train a teacher, in recipe order."""
    return tuple(phase for phase in recipe.phases if phase.trains is not None)


def trained_teacher(recipe: Recipe, phase: PhaseSpec) -> ComponentSpec | None:
    """Return the teacher of the recipe that a phase trains; None where it is missing."""
    teachers = of_kind(recipe.shared, "teacher")
    return next((teacher for teacher in teachers if phase.trains in {teacher.name, teacher.path}), None)


def check_teacher_training(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield mistakes in the recipe's phases that train a teacher."""
    phases = adapting_phases(parts.recipe)
    if phases and phases == parts.recipe.phases:
        yield parts.problem(("train",), "trains no student", "add a phase without `trains`")
    for phase in phases:
        key, teacher = (*phase.key, "trains"), trained_teacher(parts.recipe, phase)
        if teacher is None:
            names = [spec.name for spec in of_kind(parts.recipe.shared, "teacher")]
            hint = did_you_mean(str(phase.trains), names, what="teachers", shown=20)
            yield parts.problem(key, f"{phase.trains!r} is not a teacher of this recipe", hint)
            continue
        built = parts.built[teacher.key]
        if missing := [name for name in _NEEDED if not implements(built.loaded.cls, name)]:
            message = f"{built.owner} cannot be trained: it does not implement {' and '.join(missing)}"
            remedy = "use a teacher whose weights are opened on this machine, or leave this phase out"
            yield parts.problem(key, message, remedy)
        for loss in phase.losses:
            if parts.component(loss).needs:
                message = f"needs a teacher, but this phase trains the teacher {phase.trains!r} only on text"
                yield parts.problem(loss.key, message, "use a loss that needs none, or train the student here")
