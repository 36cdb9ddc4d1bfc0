"""Weights of losses: a phase learns something, and a control's weights sum to 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdtool._assembly.built import BuiltRecipe
from kdtool._contract.loss_terms import Schedule
from kdtool._errors import Problem


def check_weights(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the phases that would learn nothing, since all their losses weigh 0 from beginning to end."""
    for phase in parts.recipe.phases:
        if not any(weighs(spec.weight) for spec in phase.losses):
            message = f"in phase {phase.name!r} all losses weigh 0: the student would learn nothing"
            yield parts.problem((*phase.key, "losses"), message, "give one of them a weight above 0")


def weighs(weight: float | Schedule) -> bool:
    """Return whether a weight is above 0 at any time."""
    return max(weight.start, weight.end) > 0 if isinstance(weight, Schedule) else weight > 0


def scale_to_one(weights: Sequence[float | Schedule]) -> list[float] | None:
    """Return weights in the same proportions that sum to 1; None if all are 0, or schedules change the proportions."""
    weighing = [weight for weight in weights if weighs(weight)]
    if len(weighing) == 1:
        return [float(weighs(weight)) for weight in weights]
    numbers = [weight for weight in weights if not isinstance(weight, Schedule)]
    total = sum(numbers)
    return [weight / total for weight in numbers] if weighing and len(numbers) == len(weights) else None
