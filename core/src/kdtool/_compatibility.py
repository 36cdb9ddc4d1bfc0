"""Whether a recipe's parts fit: what losses need against what teachers and caches offer, and what the control learns from.

Looks at instances' attributes only; nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from kdtool._contract.kinds import Cache, Loss, Teacher
from kdtool._errors import Problem
from kdtool._recipe.model import ARMS, ComponentSpec, PhaseSpec, Recipe, problem_at
from kdtool._recipe.yaml_text import KeyPath

if TYPE_CHECKING:
    from kdtool._assembly import Built

__all__ = ["check_signals", "control_arms", "teacher_of"]


def teacher_of(spec: ComponentSpec, loss: Loss, recipe: Recipe) -> ComponentSpec | None:
    """Return the teacher that a loss learns from; None for one that needs none, or where it cannot be told."""
    teachers = recipe.of_kind("teacher")
    if not loss.needs:
        return None
    if spec.teacher is None:
        return teachers[0] if len(teachers) == 1 else None
    return next((teacher for teacher in teachers if spec.teacher in {teacher.name, teacher.path}), None)


def check_signals(recipe: Recipe, built: Mapping[KeyPath, Built], problems: list[Problem]) -> None:
    """Compare what the losses need with what the teachers, or the cache before them, offer."""
    for phase in recipe.phases:
        for spec in phase.losses:
            loss = built[spec.key].instance()
            if isinstance(loss, Loss) and loss.needs:
                problems.extend(_unmet_need(recipe, spec, loss, built))


def _unmet_need(recipe: Recipe, spec: ComponentSpec, loss: Loss, built: Mapping[KeyPath, Built]) -> Iterable[Problem]:
    teacher = teacher_of(spec, loss, recipe)
    if teacher is None:
        names = ", ".join(item.name for item in recipe.of_kind("teacher"))
        message = f"names the teacher {spec.teacher!r}, which is not there" if spec.teacher else "needs one teacher"
        remedy = f"teachers: {names}; write `teacher: NAME` in the loss" if names else "add `teacher: {use: …}`"
        yield problem_at(recipe, spec.key, message, remedy)
        return
    caches = recipe.of_kind("cache")
    source = built[(caches[0] if caches else teacher).key].instance()
    offers = source.offers if isinstance(source, Cache | Teacher) else frozenset()
    if any(need <= offers for need in loss.needs):
        return
    needs = " or ".join("+".join(sorted(need)) for need in loss.needs)
    giver = f"signals ({caches[0].use})" if caches else f"teacher {teacher.name!r} ({teacher.use})"
    message = f"needs {needs}, but the {giver} offers {', '.join(sorted(offers)) or 'nothing'}"
    remedy = "leave `signals` out, so that the teacher runs beside the student, or use another loss"
    yield problem_at(recipe, spec.key, message, remedy if caches else "")


def control_arms(
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
            remedy = "say what the control learns from: `control: {losses: {ce: {}}}`"
            problems.append(problem_at(recipe, ("control",), f"in phase {phase.name!r} {message}", remedy))
            continue
        phases.append(replace(phase, losses=tuple(_scaled(kept))))
    return {ARMS[match]: tuple(phases) for match in recipe.control.match}


def _scaled(losses: list[ComponentSpec]) -> Iterable[ComponentSpec]:
    total = sum(spec.weight for spec in losses if isinstance(spec.weight, float | int))
    for spec in losses:
        if isinstance(spec.weight, float | int) and total > 0:
            yield replace(spec, weight=spec.weight / total)
        else:
            yield spec
