"""The terms of a phase and their signals: what losses ask of a teacher, and how a phase gets it.

Terms are losses with weights, temperatures, teachers and layers. Signals come from the teacher itself, or from a cache that
recorded them. Conversations that a teacher would read in another chat template than it was tuned on are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.signals import shares_in_words, teachers_of
from kdtool._contract.data import Batch, Example, Messages, Row
from kdtool._contract.language_model import ModelFacts, Tokenizer
from kdtool._contract.loss import Loss, SequenceLoss
from kdtool._contract.run_info import Hooks, LossTerm
from kdtool._contract.signals import FIXED_AT_CAPTURE, Signal, SignalKind, SignalRequest, alternatives, check_rows
from kdtool._contract.sources import Cache, Teacher
from kdtool._errors import PluginError, UsageError
from kdtool._plugins.hooks import blame
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._run.context import Context
from kdtool._tokenizers import Vocabularies

if TYPE_CHECKING:
    from torch import Tensor


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


@dataclass(frozen=True)
class BoundSignals:
    """A `SignalSource` on one hook of one component. Signals are cut to the first `shared` tokens, unless it is None."""

    want: SignalRequest
    ask: Callable[[Batch, SignalRequest], Signal]
    shared: int | None = None
    recorded: bool = False
    """True if a cache is read: also in another thread than the student's."""

    def signal(self, batch: Batch, chosen: Tensor | None = None) -> Signal:
        """Return the signal for a batch."""
        found = self.ask(batch, replace(self.want, chosen=chosen))
        return found if self.shared is None else cut_signal(found, self.shared)


def from_teacher(
    hooks: Hooks, teacher: str, want: SignalRequest, vocabularies: Vocabularies | None = None
) -> BoundSignals:
    """Return signals that the teacher computes on demand, over all its tokens.

    Where the student has more tokens than the teacher, rows that hold one of these are refused.
    """
    ask: Callable[[Batch, SignalRequest], Signal] = hooks.component(teacher, Teacher).kdtool_signal
    if vocabularies is not None and vocabularies.relation == "prefix" and vocabularies.sizes[0] > vocabularies.shared:
        ask = partial(_readable, ask, teacher, vocabularies.shared)
    return BoundSignals(want, ask)


def from_cache(hooks: Hooks, cache: str, want: SignalRequest, folder: Path) -> BoundSignals:
    """Return signals that the cache recorded in `folder`."""
    recall, is_compared = hooks.component(cache, Cache).kdtool_recall, False

    def ask(batch: Batch, want: SignalRequest) -> Signal:
        """Recall a signal. The first one must cover the labels of its batch: an error names the cache."""
        nonlocal is_compared
        signal = recall(batch, want, folder)
        if not is_compared:
            with blame(hooks.owner(cache), "a signal"):
                check_rows(batch, signal)
        is_compared = True
        return signal

    return BoundSignals(want, ask, recorded=True)


def cut_signal(signal: Signal, shared: int) -> Signal:
    """Return the signal over the first `shared` tokens.

    Logits are cut before any softmax, and sampled tokens weighted again: both are the teacher's distribution conditional on
    these tokens. Top-k tokens outside are dropped, and the rest keep their probability.
    """
    lazy, sparse = signal.lazy, signal.sparse
    if lazy is not None:
        lazy = replace(lazy, head=replace(lazy.head, vocabulary=min(shared, lazy.head.vocabulary)))
    if sparse is not None:
        others = sparse.ids >= shared
        weights = sparse.weights.masked_fill(others, 0.0)
        if sparse.form == "sampled":
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
        sparse = replace(sparse, ids=sparse.ids.masked_fill(others, -1), weights=weights)
    return replace(signal, lazy=lazy, sparse=sparse)


def _readable(
    ask: Callable[[Batch, SignalRequest], Signal], teacher: str, known: int, batch: Batch, want: SignalRequest
) -> Signal:
    rows = batch.input_ids.amax(1).tolist()
    for key, greatest in zip(batch.row_keys, rows, strict=True):
        if greatest >= known:
            raise UsageError(
                f"row {key!r} holds token {greatest:,}; {teacher} has only tokens below {known:,}. Leave out the "
                "component that adds such tokens, such as filling in the middle, or use another teacher"
            )
    return ask(batch, want)


Render = Callable[[Example, Tokenizer], Iterable[Row]]


def other_templates(context: Context, phase: PhaseSpec, learner: str) -> dict[str, Tokenizer]:
    """Return the tokenizers of teachers that read the student's tokens and have another chat template, by teacher."""
    own = context.tokenizer_part(learner).get("chat template")
    asked = teachers_of_terms(plain_terms(context.assembly, phase))
    readers = [name for name in asked if (known := context.vocabularies.get(name)) and known.comparable]
    templates = {name: context.tokenizer_part(name).get("chat template") for name in readers}
    return {name: context.tokenizer_of(name) for name, template in templates.items() if template and template != own}


def refuse_other_templates(
    examples: Iterable[Example], tokenizer: Tokenizer, others: Mapping[str, Tokenizer], render: Render
) -> Iterator[Example]:
    """Yield the examples; the first conversation of each type must have the same tokens in the templates of `others`.

    Raises:
        UsageError: it has not, for the teacher that is named.
    """
    checked = set[type[Messages]]()
    for example in examples:
        if others and isinstance(example.body, Messages) and type(example.body) not in checked:
            expected = _tokens(render, example, tokenizer)
            for teacher in [name for name, other in others.items() if _tokens(render, example, other) != expected]:
                raise UsageError(
                    f"rows: conversation {example.id!r} has other tokens in the chat template of {teacher} than in the "
                    f"student's, so {teacher} would score text in a form that it was not tuned on; give both models one "
                    "template (chat_template.jinja), or set `rows.conversations: plain`"
                )
            checked |= {type(example.body)} if expected else set()
        yield example


def _tokens(render: Render, example: Example, tokenizer: Tokenizer) -> list[list[int]]:
    return [list(row.input_ids) for row in render(example, tokenizer)]
