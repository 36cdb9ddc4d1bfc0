"""Changes of a recipe under which it would fit, each tried: the recipe is checked again with it.

Components propose settings of their own (`Estimate.savings`), installed transforms that say what they cost
(`Transform.saves_memory`) are proposed where a phase does without, and evaluators can be left out. Changes that leave the
result as it is come first, then evaluators, then changes of the result. A change is tried only where it can help: at a
moment of the run that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import Assembly
from kdtool._contract.student import Student, Transform
from kdtool._errors import KdtoolError
from kdtool._plugins.registry import entries_by_name, load
from kdtool._recipe.layers import as_written
from kdtool._run.preflight.run_forecast import Asked

__all__ = ["Attempt", "Remedy", "fitting", "largest", "proposals"]

_TRIES = 24
"""Recipes that are checked for one answer, at most."""


@dataclass(frozen=True)
class Remedy:
    """Settings to lay over the recipe, what they cost, and the peak and the student's parameters that come of them.

    `stages` are those of the run in which it saves memory; () where that may be any.
    """

    settings: Mapping[str, Any]
    cost: str
    changes_result: bool
    of_student: bool = False
    leaves_out: bool = False
    peak: int = 0
    parameters: int = 0
    stages: tuple[str, ...] = ()

    def touches(self, moment: str) -> bool:
        """Return whether it may save memory at this moment."""
        return not self.stages or any(moment == stage or moment.startswith(f"{stage}:") for stage in self.stages)


@dataclass(frozen=True)
class Attempt:
    """A recipe that was checked: its peak, the student's parameters, and bytes above the limit of moments that exceed it."""

    peak: int
    parameters: int
    over: Mapping[str, int]


Try = Callable[[Mapping[str, Any]], Attempt]
"""Checks the recipe with further settings."""


def proposals(assembly: Assembly, asked: Sequence[Asked]) -> list[Remedy]:
    """Return what components and transforms propose, cheapest first, untried."""
    (student,) = assembly.named("student")
    found: dict[str, Remedy] = {}
    paths = {built.spec.path: built.spec for built in assembly.built.values()}
    evaluators = set(assembly.named("evaluator"))
    for part in asked:
        spec = paths.get(part.component)
        if spec is None:
            continue
        prefix, own = as_written(spec.key), part.component == student
        for saving in part.estimate.savings:
            settings = {f"{prefix}.{key}": value for key, value in saving.settings.items()}
            _add(found, Remedy(settings, saving.cost, saving.changes_result, own, stages=part.estimate.stages))
        if part.component in evaluators and part.estimate.stages:
            cost = f"{spec.path.rpartition('.')[2]} is not measured"
            _add(found, Remedy({prefix: False}, cost, False, leaves_out=True, stages=part.estimate.stages))
    return sorted([*found.values(), *_transforms(assembly)], key=_rank)


def fitting(found: Sequence[Remedy], attempt: Try) -> list[Remedy]:
    """Return the remedies that fit by themselves; where none does, the first sum of several that fits.

    What nothing makes fit gives an empty list.
    """
    tries = _Tries(attempt)
    base = tries({})
    if base is None:
        return []
    hopeful = [one for one in found if one.of_student or all(map(one.touches, base.over))]
    alone = [tried for one in hopeful if (tried := tries.fits(one)) is not None]
    if alone:
        return alone
    none = Remedy({}, "", changes_result=False)
    together = _together(none, base, sorted((one for one in found if not one.of_student), key=_rank), tries)
    return [] if together is None else [together]


def largest(found: Sequence[Remedy], attempt: Try) -> Remedy | None:
    """Return the proposal with the largest student that fits, with the fewest other changes; None where none does."""
    tries = _Tries(attempt)
    as_it_is = Remedy({}, "", changes_result=False, of_student=True)
    students = [as_it_is, *(one for one in found if one.of_student)]
    others = [one for one in found if not one.of_student]
    known = [(one, tried) for one in students if (tried := tries(one.settings)) is not None]
    for student, tried in sorted(known, key=lambda entry: -entry[1].parameters):
        fitted = _together(student, tried, others, tries)
        if fitted is not None:
            return fitted
    return None


class _Tries:
    """Attempts, so many for each call of `largest` or `fitting`; None for settings that the recipe refuses."""

    def __init__(self, attempt: Try) -> None:
        self._attempt, self._left = attempt, 2 * _TRIES

    def __call__(self, settings: Mapping[str, Any]) -> Attempt | None:
        self._left -= 1
        if self._left < 0:
            return None
        try:
            return self._attempt(settings)
        except KdtoolError:  # a library that is not there, two adapters in one phase: no remedy
            return None

    def fits(self, one: Remedy) -> Remedy | None:
        """Return the remedy with its figures where it fits by itself."""
        tried = self(one.settings)
        return None if tried is None or tried.over else replace(one, peak=tried.peak, parameters=tried.parameters)


def _together(start: Remedy, state: Attempt, options: Iterable[Remedy], tries: _Tries) -> Remedy | None:
    """Add options, cheapest first, where they lower the worst moment, until everything fits; None where it never does."""
    current, left = start, list(options)
    while state.over:
        worst = max(state.over, key=state.over.__getitem__)
        for one in [one for one in left if one.touches(worst)]:
            left.remove(one)
            joined = _joined(current, one)
            tried = tries(joined.settings)
            if tried is not None and tried.over.get(worst, 0) < state.over[worst]:
                current, state = joined, tried
                break
        else:
            return None
    return replace(current, peak=state.peak, parameters=state.parameters)


def _joined(first: Remedy, second: Remedy) -> Remedy:
    same = set(first.settings) <= set(second.settings)  # a smaller batch in place of a small one
    costs = second.cost if same else "; ".join(dict.fromkeys(cost for cost in (first.cost, second.cost) if cost))
    return Remedy(
        settings={**first.settings, **second.settings},
        cost=costs,
        changes_result=first.changes_result or second.changes_result,
        of_student=first.of_student or second.of_student,
        leaves_out=first.leaves_out or second.leaves_out,
    )


def _rank(one: Remedy) -> tuple[bool, int]:
    return one.of_student, 2 if one.changes_result else int(one.leaves_out)


def _add(found: dict[str, Remedy], one: Remedy) -> None:
    """Add a proposal, or the stages of one that is there."""
    known = found.setdefault(str(one.settings), one)
    if known.stages and one.stages:
        found[str(one.settings)] = replace(known, stages=tuple(dict.fromkeys([*known.stages, *one.stages])))


def _transforms(assembly: Assembly) -> Iterator[Remedy]:
    for name in entries_by_name("transform"):
        try:
            cls = load("transform", name, Path.cwd(), assembly.complain).cls
        except KdtoolError:
            continue
        saving = cls.saves_memory if issubclass(cls, Transform) else None
        if saving is None:
            continue
        for number, phase in enumerate(assembly.arms["student"]):
            random = number == 0 and _starts_random(assembly)
            if name not in {spec.use for spec in phase.transforms} and not (saving.freezes and random):
                stages = tuple(
                    f"phases/{phase.name}" if arm == "student" else f"phases/{arm}/{phase.name}"
                    for arm in assembly.arms
                )
                settings = {as_written((*phase.key, "transforms", name)): dict(saving.settings)}
                yield Remedy(settings, saving.cost, saving.changes_result, stages=stages)


def _starts_random(assembly: Assembly) -> bool:
    """Return whether the student's weights are drawn: where they are frozen, nothing was ever learnt."""
    (student,) = assembly.named("student")
    component = assembly.shared[student]
    return isinstance(component, Student) and component.uses_seed
