"""The arms of a run: the student, and controls that train the same student without the teacher.

`arms_of` gives every arm's phases once the losses are known. Phases that
train a teacher belong to no arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kdtool._assembly.checks.loss_weights import scaled, weighs
from kdtool._assembly.checks.teacher_training import adapting_problems
from kdtool._errors import Problem
from kdtool._recipe.model import ARMS, ComponentSpec, PhaseSpec, Recipe, problem_at
from kdtool._recipe.yaml import KeyPath

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["arms_of"]


def arms_of(
    recipe: Recipe, built: Mapping[KeyPath, Built], problems: list[Problem]
) -> dict[str, tuple[PhaseSpec, ...]]:
    """Return the phases of each arm by its name, the student's first."""
    problems.extend(adapting_problems(recipe, built))
    student = tuple(phase for phase in recipe.phases if phase.trains is None)
    return {"student": student, **_control_arms(recipe, built, problems)}


def _control_arms(
    recipe: Recipe, built: Mapping[KeyPath, Built], problems: list[Problem]
) -> dict[str, tuple[PhaseSpec, ...]]:
    """Return the control's phases: without the losses that need a teacher, the others' weights scaled to sum to 1."""
    if recipe.control is None:
        return {}
    phases = []
    for phase in recipe.control.phases:
        kept = [spec for spec in phase.losses if not getattr(built[spec.key].instance(), "needs", ())]
        if not kept or (recipe.control.losses_given and len(kept) < len(phase.losses)):
            message = "has no loss that works without a teacher" if not kept else "has a loss that needs a teacher"
            problems.append(_unlearnable(recipe, phase, message, "{NAME: {}}"))
        elif not any(weighs(spec.weight) for spec in kept):
            message = f"has no weight above 0 on losses that work without a teacher ({_names(kept)})"
            problems.append(_unlearnable(recipe, phase, message, "{NAME: {}}"))
        elif (weights := scaled([spec.weight for spec in kept])) is None:
            message = f"has weights ({_names(kept)}) of which no schedules make a sum of 1 at every step"
            problems.append(_unlearnable(recipe, phase, message, "{NAME: {weight: 0.7}, OTHER: {weight: 0.3}}"))
        else:
            losses = (replace(spec, weight=weight) for spec, weight in zip(kept, weights, strict=True))
            phases.append(replace(phase, losses=tuple(losses)))
    return {ARMS[match]: tuple(phases) for match in recipe.control.match}


def _unlearnable(recipe: Recipe, phase: PhaseSpec, message: str, losses: str) -> Problem:
    remedy = f"name losses for the control that need no teacher: `control: {{losses: {losses}}}`"
    return problem_at(recipe, ("control",), f"in phase {phase.name!r} {message}", remedy)


def _names(losses: Iterable[ComponentSpec]) -> str:
    return ", ".join(spec.name for spec in losses)
