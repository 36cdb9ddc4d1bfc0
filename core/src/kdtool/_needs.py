"""What losses need of their teachers, compared with what these, or the cache before them, offer.

`assemble` asks for the problems of a recipe; the run asks whom a loss learns from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._contract.kinds import Cache, Loss, Teacher
from kdtool._errors import Problem
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, of_kind, problem_at
from kdtool._recipe.yaml_text import KeyPath

if TYPE_CHECKING:
    from kdtool._assembly import Built

__all__ = ["needs_problems", "teacher_of"]


def teacher_of(spec: ComponentSpec, loss: Loss, phase: PhaseSpec) -> ComponentSpec | None:
    """Return the teacher that a loss learns from; None for one that needs none, or where it cannot be told."""
    teachers = of_kind(phase.sources, "teacher")
    if not loss.needs:
        return None
    if spec.teacher is None:
        return teachers[0] if len(teachers) == 1 else None
    return next((teacher for teacher in teachers if spec.teacher in {teacher.name, teacher.path}), None)


def needs_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield the losses that need what nobody offers them."""
    for phase in recipe.phases:
        for spec in phase.losses:
            loss = built[spec.key].instance()
            if isinstance(loss, Loss) and loss.needs:
                yield from _unmet_need(recipe, phase, spec, loss, built)


def _unmet_need(
    recipe: Recipe, phase: PhaseSpec, spec: ComponentSpec, loss: Loss, built: Mapping[KeyPath, Built]
) -> Iterator[Problem]:
    teacher = teacher_of(spec, loss, phase)
    if teacher is None:
        names = ", ".join(item.name for item in of_kind(phase.sources, "teacher"))
        message = f"names the teacher {spec.teacher!r}, which is not there" if spec.teacher else "needs one teacher"
        remedy = f"teachers: {names}; write `teacher: NAME` in the loss" if names else "add `teacher: {use: …}`"
        yield problem_at(recipe, spec.key, message, remedy)
        return
    caches = of_kind(phase.sources, "cache")
    source = built[(caches[0] if caches else teacher).key].instance()
    offers = source.offers if isinstance(source, Cache | Teacher) else frozenset()
    if any(need <= offers for need in loss.needs):
        return
    needs = " or ".join("+".join(sorted(need)) for need in loss.needs)
    giver = f"signals ({caches[0].use})" if caches else f"teacher {teacher.name!r} ({teacher.use})"
    message = f"needs {needs}, but the {giver} offers {', '.join(sorted(offers)) or 'nothing'}"
    remedy = "leave `signals` out, so that the teacher runs beside the student, or use another loss"
    yield problem_at(recipe, spec.key, message, remedy if caches else "")
