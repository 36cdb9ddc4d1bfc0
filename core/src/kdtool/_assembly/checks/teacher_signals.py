"""What losses need of their teachers, compared with what these, or the cache before them, offer.

`_fitting` asks for the problems of a recipe; the run asks whom a loss learns from. A loss may learn from a mixture of
teachers, where it compares the probabilities of single tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from kdtool._assembly.checks.on_policy import on_policy_problems
from kdtool._contract.loss import Loss, TokenLoss
from kdtool._contract.signals import FIXED_AT_CAPTURE, SignalKind, SignalRequest, alternatives
from kdtool._contract.teacher import Cache, Teacher
from kdtool._errors import Problem
from kdtool._plugins.hooks import ComponentHooks
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, of_kind, problem_at
from kdtool._recipe.yaml import KeyPath

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["need_met", "needs_problems", "shares_in_words", "source_of", "teachers_of"]

_MIXED: tuple[frozenset[SignalKind], ...] = (frozenset({"logits"}), frozenset({"sampled"}))
"""What can be mixed: of other tokens than their own, top-k ones say nothing."""


def teachers_of(spec: ComponentSpec, loss: Loss, phase: PhaseSpec) -> list[tuple[ComponentSpec, float]]:
    """Return the teachers that a loss learns from, each with its share, in the recipe's order.

    Empty for a loss that needs none, or where one cannot be told.
    """
    teachers = of_kind(phase.sources, "teacher")
    if not loss.needs:
        return []
    if spec.teacher is None:
        return [(teachers[0], 1.0)] if len(teachers) == 1 else []
    if _unknown(spec, teachers):
        return []
    shares = _shares(spec)
    asked = [(each, sum(shares.get(name, 0.0) for name in {each.name, each.path})) for each in teachers]
    return [(teacher, share) for teacher, share in asked if share > 0]


def shares_in_words(shares: Mapping[str, float]) -> str:
    """Return the shares of a mixture as users read them: `big 70 %, small 30 %`."""
    return ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items())


def _shares(spec: ComponentSpec) -> Mapping[str, float]:
    return {spec.teacher: 1.0} if isinstance(spec.teacher, str) else spec.teacher or {}


def _unknown(spec: ComponentSpec, teachers: Sequence[ComponentSpec]) -> list[str]:
    known = {name for teacher in teachers for name in (teacher.name, teacher.path)}
    return [name for name in _shares(spec) if name not in known]


def needs_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield the losses that need what nobody offers them, or tokens at another temperature than others do.

    Also what does not go together with text of the student's own.
    """
    temperatures: dict[tuple[KeyPath, str], tuple[str, float]] = {}
    for phase in recipe.phases:
        for spec in phase.losses:
            loss = built[spec.key].instance()
            if not isinstance(loss, Loss) or not loss.needs:
                continue
            teachers = [teacher for teacher, _ in teachers_of(spec, loss, phase)]
            if not teachers:
                yield _no_teacher(recipe, phase, spec)
            for teacher in teachers:
                source = source_of(phase, teacher)
                met = need_met(loss, built[source.key].instance())
                if met is None:
                    yield _unmet(recipe, spec, loss, source, built)
                elif problem := _untakeable(recipe, source, teacher, met, built):
                    yield problem
                elif met & FIXED_AT_CAPTURE:
                    first = temperatures.setdefault((source.key, teacher.path), (spec.name, loss.temperature))
                    if loss.temperature != first[1]:
                        yield _two_temperatures(recipe, spec, loss, first)
            if len(teachers) > 1:
                yield from _unmixable(recipe, phase, spec, loss, teachers, built)
    yield from on_policy_problems(recipe, built)


def source_of(phase: PhaseSpec, teacher: ComponentSpec) -> ComponentSpec:
    """Return who gives a teacher's signals in a phase: its cache, or the teacher itself."""
    return next(iter(of_kind(phase.sources, "cache")), teacher)


def _two_temperatures(recipe: Recipe, spec: ComponentSpec, loss: Loss, first: tuple[str, float]) -> Problem:
    message = f"works at temperature {loss.temperature:g}, but a teacher's tokens are taken at one alone"
    remedy = f"{first[0]} works at {first[1]:g}: give both the same, or take signals of all logits"
    return problem_at(recipe, spec.key, message, remedy)


def _unmixable(
    recipe: Recipe,
    phase: PhaseSpec,
    spec: ComponentSpec,
    loss: Loss,
    teachers: Sequence[ComponentSpec],
    built: Mapping[KeyPath, Built],
) -> Iterator[Problem]:
    """Say why what a loss learns of several teachers has no mixture."""
    key = (*spec.key, "teacher")
    if not isinstance(loss, TokenLoss):
        message = "is a mixture, but only probabilities of tokens can be mixed, and this loss compares more than these"
        yield problem_at(
            recipe, key, message, "name one teacher; or have the loss twice, under two names, one for each"
        )
        return
    met = {each.name: need_met(loss, built[source_of(phase, each).key].instance()) for each in teachers}
    forms = {form for form in met.values() if form is not None}
    if len(forms) > 1 or not forms <= set(_MIXED):
        given = ", ".join(f"{name} gives {'+'.join(sorted(form))}" for name, form in met.items() if form is not None)
        message = f"is a mixture, but {given}: all must give logits, or all sampled tokens"
        reason = "what a teacher thinks of tokens outside its top k is not known, and the mixture needs it"
        yield problem_at(recipe, key, message, reason if frozenset({"top-k"}) in forms else "")


def need_met(loss: Loss, source: object) -> frozenset[SignalKind] | None:
    """Return the first of the loss's needs that its source offers."""
    offers = source.offers if isinstance(source, Cache | Teacher) else frozenset()
    return next((need for need in alternatives(loss.needs) if need <= offers), None)


def _no_teacher(recipe: Recipe, phase: PhaseSpec, spec: ComponentSpec) -> Problem:
    names = ", ".join(item.name for item in of_kind(phase.sources, "teacher"))
    unknown = _unknown(spec, of_kind(phase.sources, "teacher"))
    message = f"names the teacher {unknown[0]!r}, which is not there" if unknown else "needs one teacher"
    remedy = f"teachers: {names}; write `teacher: NAME` in the loss" if names else "add `teacher: {use: …}`"
    return problem_at(recipe, spec.key, message, remedy)


def _unmet(
    recipe: Recipe, spec: ComponentSpec, loss: Loss, source: ComponentSpec, built: Mapping[KeyPath, Built]
) -> Problem:
    needs = " or ".join("+".join(sorted(need)) for need in alternatives(loss.needs))
    cached = source.kind == "cache"
    giver = f"signals ({source.use})" if cached else f"teacher {source.name!r} ({source.use})"
    message = f"needs {needs}, but the {giver} offers {_offers(built[source.key].instance())}"
    remedy = "leave `signals` out, so that the teacher runs beside the student, or use another loss"
    return problem_at(recipe, spec.key, message, remedy if cached else "")


def _untakeable(
    recipe: Recipe,
    source: ComponentSpec,
    teacher: ComponentSpec,
    met: frozenset[SignalKind],
    built: Mapping[KeyPath, Built],
) -> Problem | None:
    """Say where a cache must ask of the teacher what that does not offer."""
    cache, asked = built[source.key].instance(), built[teacher.key].instance()
    wanted: object = None
    if isinstance(cache, Cache):
        recorder = ComponentHooks({source.path: cache}).component(source.path, Cache)
        with suppress(Exception):  # the run reports it when it asks
            wanted = recorder.kdtool_wanted(SignalRequest(met), getattr(asked, "offers", frozenset()))
    if not isinstance(wanted, SignalRequest) or not isinstance(asked, Teacher) or wanted.kinds <= asked.offers:
        return None
    kinds = "+".join(sorted(wanted.kinds))
    message = f"{source.use} is made of {kinds}, but teacher {teacher.name!r} ({teacher.use}) offers {_offers(asked)}"
    return problem_at(recipe, source.key, message, "leave `signals` out, or name another teacher")


def _offers(source: object) -> str:
    return ", ".join(sorted(getattr(source, "offers", ()))) or "nothing"
