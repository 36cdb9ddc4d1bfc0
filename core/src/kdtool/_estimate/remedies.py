"""Changes of a recipe under which it would fit, each tried: the recipe is checked again with it.

Components propose settings of their own (`Estimate.savings`), and installed transforms that say what they cost
(`Transform.saves_memory`) are proposed where a phase does without. Those that leave the result as it is come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from kdtool._assembly import Assembly
from kdtool._contract.kinds import Transform
from kdtool._errors import KdtoolError
from kdtool._estimate.ahead import Asked
from kdtool._recipe.layers import as_written
from kdtool._registry import installed, load

__all__ = ["Remedy", "fitting", "largest", "proposals"]

_TRIES = 24
"""Recipes that are checked for one answer, at most."""


@dataclass(frozen=True)
class Remedy:
    """Settings to lay over the recipe, what they cost, and the peak and the student's parameters that come of them."""

    settings: Mapping[str, Any]
    cost: str
    changes_result: bool
    of_student: bool = False
    peak: int = 0
    parameters: int = 0


Try = Callable[[Mapping[str, Any]], tuple[int, int]]
"""Checks the recipe with further settings: peak of memory and the student's parameters."""


def proposals(assembly: Assembly, asked: Sequence[Asked]) -> list[Remedy]:
    """Return what components and transforms propose, cheapest first, untried."""
    (student,) = assembly.named("student")
    found: dict[str, Remedy] = {}
    for part in asked:
        specs = [built.spec for built in assembly.built.values() if built.spec.path == part.component]
        for saving in part.estimate.savings if specs else ():
            prefix = as_written(specs[0].key)
            settings = {f"{prefix}.{key}": value for key, value in saving.settings.items()}
            own = part.component == student
            found.setdefault(str(settings), Remedy(settings, saving.cost, saving.changes_result, own))
    return sorted([*found.values(), *_transforms(assembly)], key=lambda one: (one.of_student, one.changes_result))


def fitting(found: Iterable[Remedy], limit: int, attempt: Try) -> list[Remedy]:
    """Return the remedies that fit by themselves; where none does, the first sum of several that fits.

    What nothing makes fit gives an empty list.
    """
    tried = [one for one in _tried(found, attempt) if not one.of_student or one.peak <= limit]
    alone = [one for one in tried if one.peak <= limit]
    if alone:
        return alone
    useful = sorted(tried, key=lambda one: one.changes_result)
    for together in accumulate(useful, _joined):
        for one in _tried([together], attempt):
            if one.peak <= limit:
                return [one]
    return []


def largest(found: Sequence[Remedy], limit: int, attempt: Try) -> Remedy | None:
    """Return the proposal with the largest student that fits, with the fewest other changes; None where none does."""
    as_it_is = Remedy({}, "", changes_result=False, of_student=True)
    students = [as_it_is, *(one for one in found if one.of_student)]
    others = [one for one in found if not one.of_student]
    ways = [as_it_is, *others, *accumulate(others, _joined)] if others else [as_it_is]
    sizes = sorted(_tried(students, attempt), key=lambda one: -one.parameters)
    for student in sizes:
        if student.peak <= limit:
            return student
        for one in _tried((_joined(student, way) for way in ways[1:]), attempt):
            if one.peak <= limit:
                return one
    return None


def _tried(found: Iterable[Remedy], attempt: Try) -> Iterator[Remedy]:
    for one in list(found)[:_TRIES]:
        try:
            peak, parameters = attempt(one.settings)
        except KdtoolError:  # a library that is not there, two adapters in one phase: no remedy
            continue
        yield Remedy(one.settings, one.cost, one.changes_result, one.of_student, peak, parameters)


def _joined(first: Remedy, second: Remedy) -> Remedy:
    costs = "; ".join(cost for cost in (first.cost, second.cost) if cost)
    settings = {**first.settings, **second.settings}
    return Remedy(settings, costs, first.changes_result or second.changes_result, first.of_student or second.of_student)


def _transforms(assembly: Assembly) -> Iterator[Remedy]:
    for name in installed("transform"):
        try:
            cls = load("transform", name, Path.cwd(), assembly.complain).cls
        except KdtoolError:
            continue
        saving = cls.saves_memory if issubclass(cls, Transform) else None
        phases = [phase for phase in assembly.arms["student"] if name not in {spec.use for spec in phase.transforms}]
        if saving is not None and phases:
            settings = {as_written((*phase.key, "transforms", name)): dict(saving.settings) for phase in phases}
            yield Remedy(settings, saving.cost, saving.changes_result)
