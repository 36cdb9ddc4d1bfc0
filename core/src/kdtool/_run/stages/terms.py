"""The terms of a phase: its losses with weights, temperatures, teachers and layers, and the signals that they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.teacher_signals import shares_in_words, teachers_of
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.loss import Loss, SequenceLoss
from kdtool._contract.loss_terms import LossTerm
from kdtool._contract.signals import FIXED_AT_CAPTURE, SignalKind, SignalRequest, alternatives
from kdtool._errors import PluginError, UsageError
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._run.context import Context


def plain_terms(assembly: Assembly, phase: PhaseSpec) -> tuple[LossTerm, ...]:
    """Return the phase's terms, without the layers that losses ask for once the models' shapes are known."""
    terms = []
    for spec in phase.losses:
        loss = assembly.built[spec.key].component
        if not isinstance(loss, Loss):
            raise TypeError(f"{spec.path} is not a Loss")
        shares = {teacher.path: share for teacher, share in teachers_of(spec, loss, phase)}
        scale = loss.temperature**loss.temperature_power
        asked, mixture = (None, shares) if len(shares) > 1 else (next(iter(shares), None), {})
        term = LossTerm(spec.path, spec.name, spec.weight, loss.temperature, scale, asked)
        term = replace(term, needs=alternatives(loss.needs), divergence=loss.divergence)
        routing = isinstance(loss, SequenceLoss) and loss.routing
        terms.append(replace(term, forward_passes=loss.forward_passes, mixture=mixture, routing=routing))
    return tuple(terms)


def teachers_of_terms(terms: Iterable[LossTerm]) -> list[str]:
    """Return the teachers that the terms learn from, in alphabetical order."""
    return sorted({teacher for term in terms for teacher in term.teachers})


def describe_mixtures(assembly: Assembly) -> tuple[str, ...]:
    """Return a line for the user for each loss of the student that learns from a mixture of teachers."""
    terms = (term for phase in assembly.arms["student"] for term in plain_terms(assembly, phase))
    return tuple(
        f"{term.name} learns from a mixture: {shares_in_words(term.mixture)}" for term in terms if term.mixture
    )


def terms_of(context: Context, phase: PhaseSpec, facts: Mapping[str, ModelFacts]) -> tuple[LossTerm, ...]:
    """Return the phase's terms, with the layers that losses ask for and the tokens that student and teacher share.

    Raises:
        PluginError: a loss asks for layers of a model that does not describe itself.
        UsageError: a loss balances experts, which the student does not have.
    """
    hooks = context.assembly.hooks(phase)
    (student,) = context.assembly.of_kind("student")
    terms = []
    for term in plain_terms(context.assembly, phase):
        if term.routing and student in facts and not facts[student].experts:
            raise UsageError(
                f"{term.name} balances experts, but the student has none whose router logits can be read; leave the loss out"
            )
        pairs = None
        if term.teacher is not None and term.name in hooks.implementing("kdtool_layers"):
            for name in (student, term.teacher):
                if name not in facts:
                    owner = context.hooks.owner(name)
                    raise PluginError(f"{owner} does not describe its model, which the loss {term.name} needs")
            pairs = hooks.component(term.name, SequenceLoss).kdtool_layers(facts[student], facts[term.teacher])
        paired = tuple((int(student_layer), int(teacher_layer)) for student_layer, teacher_layer in pairs or ())
        compared = (context.vocabularies[name] for name in term.teachers if name in context.vocabularies)
        shared = next((each.shared for each in compared if each.relation == "prefix"), None)
        terms.append(replace(term, layers=paired, shared=shared))
    return tuple(terms)


def request_of(context: Context, phase: PhaseSpec, terms: tuple[LossTerm, ...], teacher: str) -> SignalRequest:
    """Return the signals that the terms need of a teacher: for each loss its first need that the source can meet.

    Sampled tokens have the temperature of the losses that read them; `teacher_signals` refuses losses that differ in it.
    """
    caches = of_kind(phase.sources, "cache")
    source = context.assembly.shared[caches[0].path if caches else teacher]
    offers: frozenset[SignalKind] = getattr(source, "offers", frozenset())
    asking = [term for term in terms if teacher in term.teachers]
    met = [next(need for need in term.needs if need <= offers) for term in asking]
    return join_requests(
        SignalRequest(frozenset(need), tuple(other for _, other in term.layers), term.temperature)
        for term, need in zip(asking, met, strict=True)
    )


def asks_for_layers(context: Context, phase: PhaseSpec, teacher: str) -> dict[str, object]:
    """Return the parts of the phase's losses that choose layers of the teacher, by label."""
    asking = context.assembly.hooks(phase).implementing("kdtool_layers")
    terms = (term for term in plain_terms(context.assembly, phase) if teacher in term.teachers)
    return {term.label: context.part(term.name, phase) for term in terms if term.name in asking}


def join_requests(requests: Iterable[SignalRequest]) -> SignalRequest:
    """Return all kinds and layers of the requests, at the temperature of those that need one at capture, else 1."""
    requests = list(requests)
    kinds = frozenset(kind for request in requests for kind in request.kinds)
    layers = tuple(sorted({layer for request in requests for layer in request.layers}))
    temperatures = [request.temperature for request in requests if request.kinds & FIXED_AT_CAPTURE]
    return SignalRequest(kinds, layers, next(iter(temperatures), 1.0))
