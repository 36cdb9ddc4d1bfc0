"""What losses need of their teachers, compared with what these, or the cache before them, offer.

`assemble` asks for the problems of a recipe; the run asks whom a loss learns from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from kdtool._contract.kinds import Cache, Loss, Teacher
from kdtool._contract.signals import Offer, Want
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
    """Yield the losses that need what nobody offers them, or tokens at another temperature than others do."""
    temperatures: dict[tuple[KeyPath, str], tuple[str, float]] = {}
    for phase in recipe.phases:
        for spec in phase.losses:
            loss = built[spec.key].instance()
            if not isinstance(loss, Loss) or not loss.needs:
                continue
            teacher = teacher_of(spec, loss, phase)
            if teacher is None:
                yield _no_teacher(recipe, phase, spec)
                continue
            source = next(iter(of_kind(phase.sources, "cache")), teacher)
            met = _met(loss, built[source.key].instance())
            if met is None:
                yield _unmet(recipe, spec, loss, source, built)
            elif problem := _untakeable(recipe, source, teacher, met, built):
                yield problem
            elif met & {"sampled", "top-k"}:
                first = temperatures.setdefault((source.key, teacher.path), (spec.name, loss.temperature))
                if loss.temperature != first[1]:
                    message = (
                        f"works at temperature {loss.temperature:g}, but a teacher's tokens are taken at one alone"
                    )
                    remedy = f"{first[0]} works at {first[1]:g}: give both the same, or take signals of all logits"
                    yield problem_at(recipe, spec.key, message, remedy)


def _met(loss: Loss, source: object) -> frozenset[Offer] | None:
    """Return the first of the loss's needs that its source offers."""
    offers = source.offers if isinstance(source, Cache | Teacher) else frozenset()
    return next((need for need in loss.needs if need <= offers), None)


def _no_teacher(recipe: Recipe, phase: PhaseSpec, spec: ComponentSpec) -> Problem:
    names = ", ".join(item.name for item in of_kind(phase.sources, "teacher"))
    message = f"names the teacher {spec.teacher!r}, which is not there" if spec.teacher else "needs one teacher"
    remedy = f"teachers: {names}; write `teacher: NAME` in the loss" if names else "add `teacher: {use: …}`"
    return problem_at(recipe, spec.key, message, remedy)


def _unmet(
    recipe: Recipe, spec: ComponentSpec, loss: Loss, source: ComponentSpec, built: Mapping[KeyPath, Built]
) -> Problem:
    needs = " or ".join("+".join(sorted(need)) for need in loss.needs)
    cached = source.kind == "cache"
    giver = f"signals ({source.use})" if cached else f"teacher {source.name!r} ({source.use})"
    message = f"needs {needs}, but the {giver} offers {_offers(built[source.key].instance())}"
    remedy = "leave `signals` out, so that the teacher runs beside the student, or use another loss"
    return problem_at(recipe, spec.key, message, remedy if cached else "")


def _untakeable(
    recipe: Recipe, source: ComponentSpec, teacher: ComponentSpec, met: frozenset[Offer], built: Mapping[KeyPath, Built]
) -> Problem | None:
    """Say where a cache must ask of the teacher what that does not offer."""
    cache, asked = built[source.key].instance(), built[teacher.key].instance()
    wanted: object = None
    if isinstance(cache, Cache):
        with suppress(Exception):  # whoever is to blame is told when the run asks for it
            wanted = cache.kdtool_wanted(Want(met))
    if not isinstance(wanted, Want) or not isinstance(asked, Teacher) or wanted.kinds <= asked.offers:
        return None
    kinds = "+".join(sorted(wanted.kinds))
    message = f"{source.use} is made of {kinds}, but teacher {teacher.name!r} ({teacher.use}) offers {_offers(asked)}"
    return problem_at(recipe, source.key, message, "leave `signals` out, or name another teacher")


def _offers(source: object) -> str:
    return ", ".join(sorted(getattr(source, "offers", ()))) or "nothing"
