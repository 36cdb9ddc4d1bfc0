"""Checks of losses and weightings: their signals, columns of tokens, on-policy text, and weights.

Signals that losses need are compared with those that their teachers, or the cache before these, offer. A loss may learn from
a mixture of teachers if it compares the probabilities of single tokens. The control has the same weightings with no teacher,
and may have other losses: of weightings, only the recipe's own phases are checked. Columns of tokens are provided in a phase
by packers, and components that label text.

A teacher must score on-policy text, so its signals cannot be recorded. Phases without a loss that learns from a teacher,
such as the control's, do not use such text, regardless of their trainer's setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from kdtool._assembly.built import Built, BuiltRecipe
from kdtool._contract.loss import Loss, TokenLoss, Weighting
from kdtool._contract.run_info import Schedule
from kdtool._contract.signals import FIXED_AT_CAPTURE, Needs, SignalKind, SignalRequest, alternatives
from kdtool._contract.sources import Cache
from kdtool._contract.training import Trainer
from kdtool._errors import Problem
from kdtool._plugins.hook_specs import implements
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec, PhaseSpec, of_kind
from kdtool._recipe.yaml import KeyPath
from kdtool._text.names import did_you_mean
from kdtool._tokenizers import BYTE_END, BYTE_START

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
                    yield _refuse_source(parts, phase, spec, source)
                    continue
                kinds = _kinds_to_record(parts, source, teacher, signals)
                if not kinds <= parts.component(teacher).offers:
                    message = f"{source.use} is made of {in_words((kinds,))}, but {_offer(parts, teacher)}"
                    problem = parts.problem(source.key, message, "leave `signals` out, or name another teacher")
                    yield replace(problem, settings={as_written(source.key): False})
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


def _refuse_source(parts: BuiltRecipe, phase: PhaseSpec, spec: ComponentSpec, source: ComponentSpec) -> Problem:
    """Return why a loss cannot learn from a source, with settings: the source stays if another loss learns from it."""
    needs, component, settings = parts.component(spec).needs, parts.component(source), dict[str, Any]()
    message, remedy = f"needs {in_words(needs)}, but the {_offer(parts, source)}", "use another loss or another teacher"
    if source.kind == "cache":
        remedy = "leave `signals` out, so that the teacher runs alongside the student, or use another loss"
        settings = {as_written(source.key): False}
    losses: list[tuple[ComponentSpec, Loss]] = [(other, parts.component(other)) for other in phase.losses]
    learning = [(loss, teacher) for other, loss in losses for teacher, _ in teachers_of(other, loss, phase)]
    if any(_source_of(phase, pair[1]) == source and signals_for(parts, phase, *pair) for pair in learning):
        remedy, settings = f"leave this loss out, or {remedy}", {as_written(spec.key): False}
    for kind, given in component.offers_with.items() if source.kind == "teacher" else ():
        if any(need <= {*component.offers, kind} for need in alternatives(needs)):
            settings = {as_written((*source.key, name)): value for name, value in given.items()}
            remedy = f"set {', '.join(f'`{key}: {value}`' for key, value in settings.items())}, or {remedy}"
            break
    return replace(parts.problem(spec.key, message, remedy), settings=settings)


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


def check_weightings(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the weightings that see other signals than they need, or name a missing loss."""
    for phase in parts.recipe.phases:
        loss, signals = _first_signals(parts, phase)
        names = [spec.name for spec in phase.losses]
        for spec in phase.weightings:
            weighting: Weighting = parts.component(spec)
            if signals and weighting.needs and not any(need <= signals for need in alternatives(weighting.needs)):
                needs = in_words(weighting.needs)
                message = f"needs {needs} of the teacher, but sees what {loss} learns from: {in_words((signals,))}"
                remedy = (
                    f"use signals that keep {needs}, leave `signals` out where they are set, or use another weighting"
                )
                yield parts.problem(spec.key, message, remedy)
            for name in sorted(weighting.terms.difference(names)):
                hint = did_you_mean(name, names, what="losses of this phase", shown=20)
                yield parts.problem(spec.key, f"names the loss {name!r}, which is not in phase {phase.name!r}", hint)


def _first_signals(parts: BuiltRecipe, phase: PhaseSpec) -> tuple[str, frozenset[SignalKind] | None]:
    """Return the name of the first token loss that has a teacher, and its signals; None without such a loss."""
    for spec in phase.losses:
        loss = parts.component(spec)
        teachers = teachers_of(spec, loss, phase)
        if teachers and isinstance(loss, TokenLoss):
            return spec.name, signals_for(parts, phase, loss, teachers[0][0])
    return "", None


def labelling(built: Mapping[KeyPath, Built], phase: PhaseSpec) -> tuple[ComponentSpec, ...]:
    """Return the phase's weightings that label text, in recipe order, and then the teachers of its losses that do."""
    taught = [pair[0] for spec in phase.losses for pair in teachers_of(spec, built[spec.key].component, phase)]  # type: ignore[arg-type]
    found = {spec.key: spec for spec in (*phase.weightings, *taught)}.values()
    return tuple(spec for spec in found if implements(built[spec.key].loaded.cls, "kdtool_annotate"))


def check_columns(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the columns that two components provide, that do not reach the tokens, or that are read but missing."""
    yield from dict.fromkeys(problem for phase in parts.phases for problem in _check_phase(parts, phase))


def _check_phase(parts: BuiltRecipe, phase: PhaseSpec) -> Iterator[Problem]:
    packers, labellers = of_kind(phase.sources, "packer"), labelling(parts.built, phase)
    providers: dict[str, str] = {}
    for spec in (*packers, *labellers):
        for column in sorted(parts.component(spec).columns):
            reserved = column in {BYTE_START, BYTE_END}
            other = "kdtool itself" if reserved else providers.setdefault(column, spec.path)
            if other != spec.path:
                message = f"provides the column {column!r}, which {other} provides too"
                yield parts.problem(spec.key, message, "rename it, or leave one of them out")
    deaf = [packer for packer in packers if not parts.component(packer).carries_annotations]
    for spec in labellers if deaf else ():
        message = f"labels text, but the packer {deaf[0].use!r} does not carry labels to tokens"
        yield parts.problem(spec.key, message, "use a packer that carries annotations, or leave this out")
    for spec in (*phase.losses, *phase.weightings):
        if missing := sorted(parts.component(spec).columns - providers.keys()):
            others = ", ".join(providers) or "none"
            message = (
                f"requires column {missing[0]!r}, which neither packer nor weighting provides (there are: {others})"
            )
            yield parts.problem(spec.key, message, "use rows, or a weighting in this phase, that provide it")


def on_policy_key(phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> KeyPath | None:
    """Return the key that makes a phase on-policy; None where it is not set."""
    key = _setting(phase, built)
    is_set = phase.trainer and key and getattr(built[phase.trainer.key].config, str(key[-1]), None) is not None
    return key if is_set else None


def check_on_policy(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the components that cannot work on on-policy text, or cannot work without it."""
    for phase in parts.recipe.phases:
        if phase.trains is None:
            key = on_policy_key(phase, parts.built)
            yield from _check_without(parts, phase) if key is None else _check_with(parts, phase, key)


def _setting(phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> KeyPath | None:
    trainer = built[phase.trainer.key].component if phase.trainer else None
    if phase.trainer is None or not isinstance(trainer, Trainer) or not trainer.on_policy:
        return None
    return (*phase.trainer.key, trainer.on_policy)


def _check_without(parts: BuiltRecipe, phase: PhaseSpec) -> Iterator[Problem]:
    setting = _setting(phase, parts.built)
    for spec in phase.losses:
        if parts.component(spec).on_policy:
            message = "needs on-policy text, but this phase trains only on the corpus"
            remedy = f"set `{as_written(setting)}`" if setting else "use a trainer with an on-policy setting"
            yield parts.problem(spec.key, message, remedy)


def _check_with(parts: BuiltRecipe, phase: PhaseSpec, key: KeyPath) -> Iterator[Problem]:
    losses = [parts.component(spec) for spec in phase.losses]
    if not any(loss.needs or loss.divergence for loss in losses):
        message = "asks for on-policy text, but no loss of this phase learns from a teacher"
        yield parts.problem(key, message, "add a loss that does, such as a divergence, or leave this setting out")
    for spec, loss in zip(phase.losses, losses, strict=True):
        if loss.corpus_only:
            message = "learns only from rows of the corpus, but this phase also trains on on-policy text"
            off = as_written((*phase.key, "trainer", key[-1]))
            yield parts.problem(spec.key, message, f"set `{off}: null` for this phase, or leave this loss out")
    caches = of_kind(phase.sources, "cache")
    if caches and any(loss.needs for loss in losses):
        name, off = as_written(caches[0].key), as_written((*phase.key, "signals"))
        message = f"asks teachers to score on-policy text, which `{name}` cannot have recorded"
        remedy = f"leave `{name}` out (`{off}: false` for this phase only), or this setting"
        yield parts.problem(key, message, remedy)


def check_weights(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the phases that would learn nothing, since all their losses weigh 0 from beginning to end."""
    for phase in parts.recipe.phases:
        if not any(weighs(spec.weight) for spec in phase.losses):
            message = f"in phase {phase.name!r} all losses weigh 0: the student would learn nothing"
            yield parts.problem((*phase.key, "losses"), message, "give one of them a weight above 0")


def weighs(weight: float | Schedule) -> bool:
    """Return whether a weight is above 0 at any time."""
    return max(weight.start, weight.end) > 0 if isinstance(weight, Schedule) else weight > 0


def scale_to_one(weights: Sequence[float | Schedule]) -> list[float] | None:
    """Return weights in the same proportions that sum to 1; None if all are 0, or schedules change the proportions."""
    weighing = [weight for weight in weights if weighs(weight)]
    if len(weighing) == 1:
        return [float(weighs(weight)) for weight in weights]
    numbers = [weight for weight in weights if not isinstance(weight, Schedule)]
    total = sum(numbers)
    return [weight / total for weight in numbers] if weighing and len(numbers) == len(weights) else None
