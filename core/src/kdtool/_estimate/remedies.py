"""Changes of a recipe under which it would fit; each is tried by checking the recipe again.

Components propose settings (`Estimate.savings`), installed transforms with a known cost
(`Transform.saves_memory`) are proposed for phases without them, and evaluators can be left out. Changes that leave the
result as it is come first, then evaluators, then changes of the result. A change is tried only where it can help: at a
moment of the run that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.without_sandbox import lost_without
from kdtool._contract.estimates import Estimate
from kdtool._contract.student import Student, Transform
from kdtool._errors import KdtoolError
from kdtool._estimate.run_forecast import AttributedEstimate
from kdtool._plugins.registry import entries_by_name, load
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec

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
    peak: int = 0
    parameters: int = 0
    stages: tuple[str, ...] = ()

    def touches(self, moment: str) -> bool:
        """Return whether it may save memory at this moment of the run."""
        return not self.stages or moment in self.stages or moment.partition(": ")[0] in self.stages


@dataclass(frozen=True)
class Attempt:
    """A checked recipe: its peak, the student's parameters, and the bytes above the limit of moments that exceed it."""

    peak: int
    parameters: int
    over: Mapping[str, int]


_AS_IT_IS = Remedy({}, "", changes_result=False)

Try = Callable[[Mapping[str, Any]], Attempt]
"""Checks the recipe with further settings."""
Tries = Callable[[Mapping[str, Any]], Attempt | None]
"""The same, where None stands for settings that cannot be checked."""


def proposals(assembly: Assembly, asked: Sequence[AttributedEstimate]) -> list[Remedy]:
    """Return the proposals of components and transforms, cheapest first, untried."""
    specs = {built.spec.path: built.spec for built in assembly.built.values()}
    proposed: dict[str, Remedy] = {}
    for part in asked:
        for remedy in _proposed_by(part.estimate, specs[part.component]) if part.component in specs else ():
            earlier = proposed.setdefault(str(remedy.settings), remedy)
            if earlier.stages and remedy.stages:
                stages = tuple(dict.fromkeys([*earlier.stages, *remedy.stages]))
                proposed[str(remedy.settings)] = replace(earlier, stages=stages)
    return sorted([*proposed.values(), *_transforms(assembly, asked)], key=_rank)


def propose(remedies: Sequence[Remedy], attempt: Try, *, larger: bool) -> Remedy | None:
    """Return the proposal with the largest student that fits, with the fewest other changes; None where none does.

    Unless `larger`, no student is larger than the recipe's.
    """
    left = iter(range(_TRIES))

    def tries(settings: Mapping[str, Any]) -> Attempt | None:
        """Return None beyond the most tries, and for settings that the recipe refuses."""
        with suppress(KdtoolError):  # a library that is not installed, two adapters in one phase
            return attempt(settings) if next(left, None) is not None else None
        return None

    students = [_AS_IT_IS, *(remedy for remedy in remedies if remedy.of_student)]
    others = [remedy for remedy in remedies if not remedy.of_student]
    known = [(student, state) for student in students if (state := tries(student.settings)) is not None]
    wanted = [entry for entry in known if larger or entry[1].parameters <= known[0][1].parameters]
    largest_first = sorted(wanted, key=lambda entry: -entry[1].parameters)
    combined = (_combine(student, state, others, tries) for student, state in largest_first)
    return next(filter(None, combined), None)


def leave_out_lost(remedy: Remedy, assembly: Assembly) -> Remedy:
    """Return the remedy that also leaves out components that it leaves nothing to compare with."""
    classes = {as_written(b.spec.key): type(assembly.shared[b.spec.path]) for b in assembly.built_for().values()}
    left_out = {key for key, value in remedy.settings.items() if value is False}
    lost = lost_without(left_out, classes) if left_out else []
    costs = [remedy.cost, *(f"without {name}, which has nothing left to compare with" for name in lost)]
    return replace(remedy, settings={**remedy.settings, **dict.fromkeys(lost, False)}, cost="; ".join(costs))


def _combine(start: Remedy, state: Attempt, options: Iterable[Remedy], tries: Tries) -> Remedy | None:
    """Add options, cheapest first, where they lower the worst moment, until everything fits; None where it never does."""
    current, left = start, sorted(options, key=_rank)
    while state.over:
        worst = max(state.over, key=state.over.__getitem__)
        for option in [option for option in left if option.touches(worst)]:
            left.remove(option)
            joined = _join(current, option)
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
    )


def _rank(remedy: Remedy) -> tuple[bool, int]:
    return remedy.of_student, 2 if remedy.changes_result else int(
        any(value is False for value in remedy.settings.values())
    )


def _proposed_by(estimate: Estimate, spec: ComponentSpec) -> Iterator[Remedy]:
    """Yield the savings of one estimate, and leaving out an evaluator that holds memory."""
    prefix, stages = as_written(spec.key), estimate.stages
    for saving in estimate.savings:
        settings = {f"{prefix}.{key}": value for key, value in saving.settings.items()}
        yield Remedy(settings, saving.cost, saving.changes_result, of_student=spec.kind == "student", stages=stages)
    if spec.kind == "evaluator" and stages:
        cost = f"without the evaluator {spec.path.rpartition('.')[2]}"
        yield Remedy({prefix: False}, cost, changes_result=False, stages=stages)


def _transforms(assembly: Assembly, asked: Sequence[AttributedEstimate]) -> Iterator[Remedy]:
    (student,) = assembly.of_kind("student").values()
    random = isinstance(student, Student) and student.uses_seed
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
            if not frozen and name not in {spec.use for spec in phase.transforms}:
                settings = {as_written((*phase.key, "transforms", name)): dict(saving.settings)}
                moments = (moment for part in asked if part.phase == phase.name for moment in part.estimate.stages)
                stages = tuple(dict.fromkeys(moment.partition(": ")[0] for moment in moments))
                yield Remedy(settings, saving.cost, saving.changes_result, stages=stages)
