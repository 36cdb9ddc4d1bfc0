"""The arms of a run: the student, and controls that train the same student without the teacher.

Controls of `control: {self: …}` have the losses of the others, and rows of the student's own samples.
"""

from __future__ import annotations

from dataclasses import replace

from kdtool._assembly.built import BuiltRecipe
from kdtool._assembly.checks.loss_weights import scale_to_one
from kdtool._errors import Problem
from kdtool._recipe.model import PhaseSpec


def arms_of(parts: BuiltRecipe, problems: list[Problem]) -> dict[str, tuple[PhaseSpec, ...]]:
    """Return the phases of each arm by its name, the student's first; phases that train a teacher belong to no arm."""
    arms = {"student": tuple(phase for phase in parts.recipe.phases if phase.trains is None)}
    if control := parts.recipe.control:
        phases = [_without_teacher(parts, phase, problems, control.losses_given) for phase in control.phases]
        arms |= dict.fromkeys(control.arms, tuple(phases))
    return arms


def _without_teacher(parts: BuiltRecipe, phase: PhaseSpec, problems: list[Problem], losses_given: bool) -> PhaseSpec:
    """Return a phase without the losses that need a teacher, the others' weights scaled to sum to 1.

    Losses that balance experts keep their weights.
    """
    without = [spec for spec in phase.losses if not parts.component(spec).needs]
    balancing = [spec for spec in without if getattr(parts.component(spec), "routing", False)]
    kept = [spec for spec in without if spec not in balancing]
    weights = scale_to_one([spec.weight for spec in kept])
    message = ""
    if not kept:
        message = "needs a loss that works without a teacher"
    elif losses_given and len(without) < len(phase.losses):
        message = "has a loss that needs a teacher"
    elif weights is None:
        message = (
            f"has weights ({', '.join(spec.name for spec in kept)}) that cannot be scaled to sum to 1: all are 0, or follow "
            "schedules"
        )
    if message:
        remedy = "name losses for the control that need no teacher: `control: {losses: {NAME: {weight: 0.7}}}`"
        problems.append(parts.problem(("control",), f"in phase {phase.name!r} {message}", remedy))
    losses = (replace(spec, weight=weight) for spec, weight in zip(kept, weights or (), strict=False))
    return replace(phase, losses=(*losses, *balancing))
