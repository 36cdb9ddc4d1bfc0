"""A phase's losses as the training loop needs them: callables, teachers, fixed factors.

Made once at the start of a phase, from hooks and the first batch's signals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any, Literal

import kdtool
from torch import Tensor

__all__ = ["BoundTerm", "Form", "bind_terms", "learns_on_policy", "without_dropout"]

Form = Literal["none", "dense", "sampled", "top-k", "chosen"]
"""Form in which a token loss receives its teacher's signal."""


@dataclass(frozen=True, eq=False)
class BoundTerm:
    """One term, ready to be called: `call` takes a `TokenChunk` if `per_token`, else a `StepView`; `gradient` a chunk."""

    term: kdtool.LossTerm
    call: Callable[[Any], Any]
    per_token: bool
    form: Form = "none"
    captured_temperature: float = 1.0
    shares: tuple[float, ...] = ()
    """Each teacher's share of the distribution to learn, in the order of `term.teachers`."""
    gradient: Callable[[kdtool.TokenChunk], tuple[Tensor, Tensor] | None] | None = None
    """`kdtool_token_gradient`, if the loss has it and sees one pass."""


def without_dropout(terms: Iterable[kdtool.LossTerm]) -> kdtool.UsageError:
    """Return the error for losses of two passes on a student that draws no random numbers."""
    names = ", ".join(term.name for term in terms if term.forward_passes > 1)
    return kdtool.UsageError(
        f"{names}: compares two passes of the student with different dropout, but this student has no dropout, so both are "
        "the same. Take one that has (attention_dropout or the like above 0 in the config.json that it comes from), or "
        "`transforms: {lora: {dropout: 0.1}}`, or leave this loss out"
    )


def learns_on_policy(term: kdtool.LossTerm) -> bool:
    """Return whether a term can learn from text that the student wrote: by a teacher's signals, two passes, or its routing.

    Other terms raise the text's likelihood. For the student's own samples that is noise: the gradient of their likelihood is
    0 on average. So such terms learn only from the corpus.
    """
    return bool(term.teachers) or term.divergence or term.routing


def bind_terms(run: kdtool.RunInfo, phase: kdtool.Phase, signals: Mapping[str, kdtool.Signal]) -> tuple[BoundTerm, ...]:
    """Bind the phase's terms, in order. `signals` are those of a first batch: they show in which form teachers answer.

    Raises:
        PluginError: a teacher's signal holds nothing that the loss can use.
        UsageError: a loss is to learn from tokens that were taken at another temperature than it reads them at.
    """
    token, sequence = run.bound("kdtool_token_loss"), run.bound("kdtool_sequence_loss")
    gradients = run.bound("kdtool_token_gradient")
    bound = []
    for term in phase.terms:
        per_token = term.name in token
        call: Callable[[Any], Any] = token[term.name] if per_token else sequence[term.name]
        forms = [_form(run, term, name, signals[name]) for name in term.teachers] if per_token else []
        form, captured = forms[0] if forms else ("none", 1.0)  # one for all: the engine refuses other mixtures
        gradient = gradients.get(term.name) if per_token and term.forward_passes == 1 else None
        bound.append(BoundTerm(term, call, per_token, form, captured, tuple(term.teachers.values()), gradient))
    return tuple(bound)


def _form(run: kdtool.RunInfo, term: kdtool.LossTerm, teacher: str, signal: kdtool.Signal) -> tuple[Form, float]:
    needs = term.needs
    for need in needs or (frozenset({"logits", "sampled", "top-k"}),):
        if "logits" in need and signal.lazy is not None:
            return "dense", 1.0
        if signal.sparse is not None and signal.sparse.form in need:
            return signal.sparse.form, _check_temperature(term, teacher, signal.sparse.temperature)
        if signal.chosen is not None and "chosen" in need:
            return "chosen", _check_temperature(term, teacher, signal.chosen.temperature)
    if not needs or not any(need & {"logits", "sampled", "top-k", "chosen"} for need in needs):
        return "none", 1.0
    wanted = " or ".join(sorted({offer for need in needs for offer in need}))
    has = [*(["logits"] if signal.lazy else []), *([signal.sparse.form] if signal.sparse else [])]
    has += ["chosen"] if signal.chosen else []
    raise kdtool.PluginError(
        f"{run.hook.owner(term.name) or term.name} needs {wanted} of {teacher}, whose signal holds "
        f"{' and '.join(has) or 'neither logits nor tokens'}"
    )


def _check_temperature(term: kdtool.LossTerm, teacher: str, captured: float) -> float:
    """Return the temperature of a teacher's tokens if it is the term's."""
    if not isclose(captured, term.temperature):
        raise kdtool.UsageError(
            f"{term.label} works at temperature {term.temperature:g}, but the tokens of {teacher} were taken at "
            f"{captured:g}: give the loss and the signals one temperature"
        )
    return captured
