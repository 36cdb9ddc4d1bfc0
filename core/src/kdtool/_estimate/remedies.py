"""Changes of a recipe under which it would fit; each is tried by checking the recipe again.

Components propose settings of their own (`Estimate.savings`), installed transforms with a known cost
(`Transform.saves_memory`) are proposed for phases without them, and evaluators can be left out. Changes that leave the
result as it is come first, then evaluators, then changes of the result. A change is tried only where it can help: at a
moment of the run that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import Assembly
from kdtool._contract.estimates import RunForecast
from kdtool._contract.student import Student, Transform
from kdtool._errors import KdtoolError
from kdtool._estimate.run_forecast import AttributedEstimate
from kdtool._plugins.registry import entries_by_name, load
from kdtool._recipe.layers import as_written

_TRIES = 48
"""The most recipes that are checked for one answer."""


@dataclass(frozen=True)
class Remedy:
    """Settings to lay over the recipe, their cost, and the resulting peak (bytes) and parameters of the student.

    `stages` are those in which it saves memory; () if that may be any.
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
        """Return whether it may save memory at this moment of the run."""
        return not self.stages or any(moment == stage or moment.startswith(f"{stage}:") for stage in self.stages)


@dataclass(frozen=True)
class Attempt:
    """A checked recipe: its peak, the student's parameters, and the bytes above the limit of moments that exceed it."""

    peak: int
    parameters: int
    over: Mapping[str, int]


_AS_IT_IS = Remedy({}, "", changes_result=False)

Try = Callable[[Mapping[str, Any]], Attempt]
"""Checks the recipe with further settings."""


def proposals(assembly: Assembly, ahead: RunForecast, asked: Sequence[AttributedEstimate]) -> list[Remedy]:
    """Return the proposals of components and transforms, cheapest first, untried."""
    (student,) = assembly.of_kind("student")
    found: dict[str, Remedy] = {}
    paths = {built.spec.path: built.spec for built in assembly.built.values()}
    for part in asked:
        spec, stages = paths.get(part.component), part.estimate.stages
        if spec is None:
            continue
        prefix = as_written(spec.key)
        own = [
            Remedy(
                {f"{prefix}.{key}": value for key, value in saving.settings.items()},
                saving.cost,
                saving.changes_result,
                of_student=part.component == student,
                stages=stages,
            )
            for saving in part.estimate.savings
        ]
        if spec.kind == "evaluator" and stages:
            cost = f"without the evaluator {spec.path.rpartition('.')[2]}"
            own.append(Remedy({prefix: False}, cost, False, leaves_out=True, stages=stages))
        for one in own:
            known = found.setdefault(str(one.settings), one)
            if known.stages and stages:
                found[str(one.settings)] = replace(known, stages=tuple(dict.fromkeys([*known.stages, *stages])))
    return sorted([*found.values(), *_transforms(assembly, ahead)], key=_rank)


def fitting(found: Sequence[Remedy], attempt: Try) -> list[Remedy]:
    """Return the remedies that fit by themselves; where none does, the first sum of several that fits, if any."""
    tries = _Tries(attempt)
    base = tries({})
    if base is None:
        return []
    alone = []
    for one in found:
        if one.of_student or all(map(one.touches, base.over)):
            tried = tries(one.settings)
            if tried is not None and not tried.over:
                alone.append(replace(one, peak=tried.peak, parameters=tried.parameters))
    if alone:
        return alone
    together = _combine(_AS_IT_IS, base, [one for one in found if not one.of_student], tries)
    return [] if together is None else [together]


def largest(found: Sequence[Remedy], attempt: Try) -> Remedy | None:
    """Return the proposal with the largest student that fits, with the fewest other changes; None where none does."""
    tries = _Tries(attempt)
    students = [replace(_AS_IT_IS, of_student=True), *(one for one in found if one.of_student)]
    others = [one for one in found if not one.of_student]
    known = [(one, tried) for one in students if (tried := tries(one.settings)) is not None]
    for student, tried in sorted(known, key=lambda entry: -entry[1].parameters):
        if fitted := _combine(student, tried, others, tries):
            return fitted
    return None


class _Tries:
    """Attempts, at most `_TRIES`; None beyond, and for settings that the recipe refuses."""

    def __init__(self, attempt: Try) -> None:
        self._attempt, self._left = attempt, _TRIES

    def __call__(self, settings: Mapping[str, Any]) -> Attempt | None:
        self._left -= 1
        try:
            return self._attempt(settings) if self._left >= 0 else None
        except KdtoolError:  # a library that is not installed, two adapters in one phase
            return None


def _combine(start: Remedy, state: Attempt, options: Iterable[Remedy], tries: _Tries) -> Remedy | None:
    """Add options, cheapest first, where they lower the worst moment, until everything fits; None where it never does."""
    current, left = start, sorted(options, key=_rank)
    while state.over:
        worst = max(state.over, key=state.over.__getitem__)
        for one in [one for one in left if one.touches(worst)]:
            left.remove(one)
            joined = _join(current, one)
            tried = tries(joined.settings)
            if tried is not None and tried.over.get(worst, 0) < state.over[worst]:
                current, state = joined, tried
                break
        else:
            return None
    return replace(current, peak=state.peak, parameters=state.parameters)


def _join(first: Remedy, second: Remedy) -> Remedy:
    replaced = set(first.settings) <= set(second.settings)  # a smaller batch in place of a small one
    return Remedy(
        settings={**first.settings, **second.settings},
        cost=second.cost if replaced else "; ".join(dict.fromkeys(filter(None, (first.cost, second.cost)))),
        changes_result=first.changes_result or second.changes_result,
        of_student=first.of_student or second.of_student,
        leaves_out=first.leaves_out or second.leaves_out,
    )


def _rank(one: Remedy) -> tuple[bool, int]:
    return one.of_student, 2 if one.changes_result else int(one.leaves_out)


def _transforms(assembly: Assembly, ahead: RunForecast) -> Iterator[Remedy]:
    (student,) = assembly.of_kind("student")
    component = assembly.shared[student]
    random = isinstance(component, Student) and component.uses_seed
    for name in entries_by_name("transform"):
        try:
            cls = load("transform", name, Path.cwd(), assembly.complain).cls
        except KdtoolError:
            continue
        saving = cls.saves_memory if issubclass(cls, Transform) else None
        if saving is None:
            continue
        for number, phase in enumerate(assembly.arms["student"]):
            frozen = saving.freezes and random and number == 0  # weights that were never trained
            if frozen or name in {spec.use for spec in phase.transforms}:
                continue
            settings = {as_written((*phase.key, "transforms", name)): dict(saving.settings)}
            stages = tuple(planned.stage for planned in ahead.phases if planned.name == phase.name)
            yield Remedy(settings, saving.cost, saving.changes_result, stages=stages)
