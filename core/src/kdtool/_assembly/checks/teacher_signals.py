"""Signals that losses need, compared with those that their teachers, or the cache before these, offer.

A loss may learn from a mixture of teachers if it compares the probabilities of single tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from kdtool._assembly.built import BuiltRecipe
from kdtool._contract.loss import Loss, TokenLoss
from kdtool._contract.signals import FIXED_AT_CAPTURE, Needs, SignalKind, SignalRequest, alternatives
from kdtool._contract.teacher import Cache
from kdtool._errors import Problem
from kdtool._recipe.model import ComponentSpec, PhaseSpec, of_kind
from kdtool._recipe.yaml import KeyPath

_MIXABLE = ({"logits"}, {"sampled"})


def teachers_of(spec: ComponentSpec, loss: Loss, phase: PhaseSpec) -> list[tuple[ComponentSpec, float]]:
    """Return the teachers that a loss learns from, each with its share, in the recipe's order.

    Empty for a loss that needs none, and for one that names none of several, or a missing one.
    """
    teachers = of_kind(phase.sources, "teacher")
    if not loss.needs or _missing(spec, teachers):
        return []
    if not spec.teacher:
        return [(teachers[0], 1.0)] if len(teachers) == 1 else []
    asked = [(each, sum(spec.teacher.get(name, 0.0) for name in {each.name, each.path})) for each in teachers]
    return [(teacher, share) for teacher, share in asked if share > 0]


def shares_in_words(shares: Mapping[str, float]) -> str:
    """Return the shares of a mixture as users read them: `big 70 %, small 30 %`."""
    return ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items())


def _missing(spec: ComponentSpec, teachers: Sequence[ComponentSpec]) -> list[str]:
    known = {name for teacher in teachers for name in (teacher.name, teacher.path)}
    return [name for name in spec.teacher if name not in known]


def _source_of(phase: PhaseSpec, teacher: ComponentSpec) -> ComponentSpec:
    """Return the source of a teacher's signals in a phase: its cache, or the teacher itself."""
    return next(iter(of_kind(phase.sources, "cache")), teacher)


def signals_for(
    parts: BuiltRecipe, phase: PhaseSpec, loss: Loss, teacher: ComponentSpec
) -> frozenset[SignalKind] | None:
    """Return the first of a loss's needs that the source of a teacher's signals offers."""
    offers = parts.component(_source_of(phase, teacher)).offers
    return next((need for need in alternatives(loss.needs) if need <= offers), None)


def in_words(needs: Needs) -> str:
    """Return alternative needs as users read them: `hidden+logits or sampled`."""
    return " or ".join("+".join(sorted(need)) for need in alternatives(needs))


def check_signals(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the losses that need a teacher or signals that are missing, or tokens at another temperature than others."""
    temperatures: dict[tuple[KeyPath, str], tuple[str, float]] = {}
    for phase in parts.recipe.phases:
        for spec in phase.losses:
            loss: Loss = parts.component(spec)
            teachers = [teacher for teacher, _ in teachers_of(spec, loss, phase)]
            if loss.needs and not teachers:
                yield _refuse_teacher(parts, phase, spec)
            for teacher in teachers:
                source, signals = _source_of(phase, teacher), signals_for(parts, phase, loss, teacher)
                yield from _check_initial_student(parts, phase, teacher, source)
                if signals is None:
                    yield _refuse_source(parts, spec, source)
                    continue
                kinds = _kinds_to_record(parts, source, teacher, signals)
                if not kinds <= parts.component(teacher).offers:
                    message = f"{source.use} is made of {in_words((kinds,))}, but {_offer(parts, teacher)}"
                    yield parts.problem(source.key, message, "leave `signals` out, or name another teacher")
                elif signals & FIXED_AT_CAPTURE:
                    first, at = temperatures.setdefault((source.key, teacher.path), (spec.name, loss.temperature))
                    if loss.temperature != at:
                        message = f"works at temperature {loss.temperature:g}, but a teacher's tokens are taken at one"
                        remedy = f"{first} works at {at:g}: give both the same, or use signals of all logits"
                        yield parts.problem(spec.key, message, remedy)
            if len(teachers) > 1:
                yield from _check_mixture(parts, phase, spec, teachers)


def _refuse_teacher(parts: BuiltRecipe, phase: PhaseSpec, spec: ComponentSpec) -> Problem:
    teachers = of_kind(phase.sources, "teacher")
    names, missing = ", ".join(teacher.name for teacher in teachers), _missing(spec, teachers)
    message = f"names the teacher {missing[0]!r}, which is not in this recipe" if missing else "needs one teacher"
    remedy = f"teachers: {names}; write `teacher: NAME` in the loss" if names else "add `teacher: {use: …}`"
    return parts.problem(spec.key, message, remedy)


def _refuse_source(parts: BuiltRecipe, spec: ComponentSpec, source: ComponentSpec) -> Problem:
    message = f"needs {in_words(parts.component(spec).needs)}, but the {_offer(parts, source)}"
    remedy = "use another loss, or another teacher"
    if source.kind == "cache":
        remedy = "leave `signals` out, so that the teacher runs alongside the student, or use another loss"
    return parts.problem(spec.key, message, remedy)


def _check_initial_student(
    parts: BuiltRecipe, phase: PhaseSpec, teacher: ComponentSpec, source: ComponentSpec
) -> Iterator[Problem]:
    """Yield what is wrong with a teacher that is the student before a phase."""
    before = parts.component(teacher).initial_student
    if before is not None and source is not teacher:
        message = f"is recorded before training, but the teacher {teacher.name!r} is the student of each seed"
        yield parts.problem(source.key, message, f"write `signals: false` in the phase {phase.name!r}")
    phases = parts.recipe.phases
    earlier = [other.name for other in phases[: phases.index(phase) + 1] if other.trains is None]
    if before and before not in earlier:
        message = f"is the student before the phase {before!r}, but the phase {phase.name!r} learns from it"
        yield parts.problem(teacher.key, message, f"name one of its phases up to then: {', '.join(earlier)}")


def _offer(parts: BuiltRecipe, source: ComponentSpec) -> str:
    giver = f"signals ({source.use})" if source.kind == "cache" else f"teacher {source.name!r} ({source.use})"
    return f"{giver} offers {', '.join(sorted(parts.component(source).offers)) or 'nothing'}"


def _kinds_to_record(
    parts: BuiltRecipe, source: ComponentSpec, teacher: ComponentSpec, signals: frozenset[SignalKind]
) -> frozenset[SignalKind]:
    """Return the signals that a cache asks of its teacher so that it can serve `signals`."""
    if source.kind == "cache":
        cache: Cache = parts.component(source)
        with suppress(Exception):  # the run reports it when it asks
            return cache.records(SignalRequest(signals), parts.component(teacher).offers).kinds
    return frozenset()


def _check_mixture(
    parts: BuiltRecipe, phase: PhaseSpec, spec: ComponentSpec, teachers: Sequence[ComponentSpec]
) -> Iterator[Problem]:
    """Yield the reason why the signals of several teachers cannot be mixed for a loss."""
    loss: Loss = parts.component(spec)
    signals = {teacher.name: signals_for(parts, phase, loss, teacher) for teacher in teachers}
    forms = {form for form in signals.values() if form is not None}
    message = remedy = ""
    if not isinstance(loss, TokenLoss):
        message = "is a mixture, but only probabilities of tokens can be mixed, and this loss compares more than these"
        remedy = "name one teacher; or have the loss twice, under two names, one for each"
    elif len(forms) > 1 or not all(form in _MIXABLE for form in forms):
        given = ", ".join(f"{name} gives {in_words((form,))}" for name, form in signals.items() if form is not None)
        message = f"is a mixture, but {given}: all must give logits, or all sampled tokens"
        if {"top-k"} in forms:
            remedy = "what a teacher thinks of tokens outside its top k is not known, and the mixture needs it"
    if message:
        yield parts.problem((*spec.key, "teacher"), message, remedy)
