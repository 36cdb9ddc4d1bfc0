"""Phases that train a teacher before it teaches: which they are, whom they train, and what can be wrong with them.

`_arms` asks for the problems when a recipe is assembled, `_run.adapting` trains. They come before all others, wherever they
stand: a recipe that extends another can only add phases behind. A phase without `trains` trains the student.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._errors import Problem
from kdtool._plugins.validation import implements
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, of_kind, problem_at
from kdtool._recipe.yaml import KeyPath
from kdtool._text.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["adapting_phases", "adapting_problems", "trained_teacher"]

_NEEDED = ("kdtool_trainable", "kdtool_adapted")


def adapting_phases(recipe: Recipe) -> tuple[PhaseSpec, ...]:
    """Return the phases that train a teacher, in recipe order."""
    return tuple(phase for phase in recipe.phases if phase.trains is not None)


def trained_teacher(recipe: Recipe, phase: PhaseSpec) -> ComponentSpec | None:
    """Return the teacher of the recipe that a phase trains; None where there is none of that name."""
    teachers = of_kind(recipe.shared, "teacher")
    return next((teacher for teacher in teachers if phase.trains in {teacher.name, teacher.path}), None)


def adapting_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield what is wrong with the recipe's phases that train a teacher."""
    if recipe.phases and all(phase.trains is not None for phase in recipe.phases):
        yield problem_at(recipe, ("train",), "trains no student", "add a phase without `trains`")
    for phase in adapting_phases(recipe):
        key = (*phase.key, "trains")
        teacher = trained_teacher(recipe, phase)
        if teacher is None:
            names = [spec.name for spec in of_kind(recipe.shared, "teacher")]
            hint = did_you_mean(str(phase.trains), names, what="teachers", shown=20)
            yield problem_at(recipe, key, f"{phase.trains!r} is no teacher of this recipe", hint)
            continue
        yield from _unable(recipe, key, built[teacher.key])
        yield from _taught(recipe, phase, built)


def _unable(recipe: Recipe, key: KeyPath, teacher: Built) -> Iterator[Problem]:
    missing = [name for name in _NEEDED if not implements(teacher.loaded.cls, name)]
    if missing:
        message = f"{teacher.owner} cannot be trained: it has no {' and no '.join(missing)}"
        remedy = "take a teacher whose weights are opened on this machine, or leave this phase out"
        yield problem_at(recipe, key, message, remedy)


def _taught(recipe: Recipe, phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    for loss in phase.losses:
        if getattr(built[loss.key].instance(), "needs", ()):
            message = f"needs a teacher, but this phase trains the teacher {phase.trains!r} on the text alone"
            yield problem_at(recipe, loss.key, message, "use a loss that needs none, or train the student here")
