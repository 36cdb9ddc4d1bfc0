"""Weights of losses: a phase learns something, and a control's weights sum to 1 at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isclose

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
    return any(end > 0 for end in _ends(weight))


def scale_to_one(weights: Sequence[float | Schedule]) -> list[float | Schedule] | None:
    """Return weights in the same proportions that sum to 1 at every step; None where no schedules do.

    While all weights are 0, the proportions are those of another time.
    """
    if not any(map(weighs, weights)):
        return None
    first, last = zip(*map(_ends, weights), strict=True)
    starts, ends = _shares(first) or _shares(last), _shares(last) or _shares(first)
    courses = {(w.begin, w.until, w.shape) for w in weights if isinstance(w, Schedule) and w.start != w.end}
    if len(courses) > 1 and sum(map(weighs, weights)) > 1:
        return None
    if all(map(isclose, starts, ends)):
        return [*starts]
    (course,) = courses
    if course[-1] != "step" and not isclose(sum(first), sum(last)):  # then shares are no straight line, nor a cosine
        return None
    return [Schedule(start, end, *course) for start, end in zip(starts, ends, strict=True)]


def _ends(weight: float | Schedule) -> tuple[float, float]:
    return (weight.start, weight.end) if isinstance(weight, Schedule) else (weight, weight)


def _shares(values: Sequence[float]) -> list[float]:
    """Return values as shares of their sum; none where that is 0."""
    total = sum(values)
    return [value / total for value in values] if total else []
