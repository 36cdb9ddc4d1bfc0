"""The losses of a phase on one chunk of logits: bound to their teachers, weighed, with the gradients by the logits.

Terms are bound once per phase, from hooks and the first batch's signals. The chunked head calls `ChunkLoss` some thirty
times per step. Eager, each loss returns its analytic gradient, or PyTorch differentiates it. Compiled, losses and
gradient become one kernel; results agree up to rounding. A rule without timing decides whether to compile, so
that a resumed phase and all ranks do the same. Several teachers are mixed in probability space, chunk by chunk, so that
no teacher's logits exist for more positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import isclose, log
from typing import Any, Literal

import kdtool
import torch
import torch.nn.functional as F
from torch import Tensor

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


Logits = tuple[Tensor, ...]
"""The student's logits of a chunk, [C, V] for each pass: one, or two if a loss asks for them."""
TeacherRows = tuple[Tensor, ...]
"""One term's teachers in a chunk: () for none, logits of each, (ids, weights) of all together, or chosen (ids, logs)."""
_numbers = count()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Inputs of a phase's losses at C positions; `teachers` has one entry per term.

    Without logits and teachers, it describes all positions of a micro-batch: logits exist only chunk by chunk.
    """

    labels: Tensor
    positions: Tensor
    columns: dict[str, Tensor]
    factors: Tensor
    """[terms] float32: weight · scale · balance of each term."""
    progress: Tensor
    step: Tensor
    teachers: tuple[TeacherRows, ...] = ()
    logits: Logits = ()

    def select(self, rows: slice | Tensor, teachers: tuple[TeacherRows, ...], logits: Logits) -> Chunk:
        """Return these positions with their teachers' tokens or logits, and the student's logits."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        labels, positions = self.labels[rows], self.positions[rows]
        return replace(self, labels=labels, positions=positions, columns=columns, teachers=teachers, logits=logits)


class ChunkLoss:
    """All token losses of a phase as one function of logits: gradients of their shapes, each term's totals over the rows."""

    def __init__(self, terms: Sequence[BoundTerm], weightings: Sequence[Callable[[kdtool.TokenChunk], Tensor]]) -> None:
        self.terms = tuple(terms)
        self.forward_passes = max((bound.term.forward_passes for bound in self.terms), default=1)
        self._weightings = tuple(weightings)
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, chunk: Chunk) -> tuple[Logits, Tensor]:
        """Return the weighed sum's gradients by the logits, in their dtype or float32, and the terms' totals [2, terms].

        The totals are each term's sum of values, and its sum of token weights: 0 if no tokens are weighed.
        """
        if self._compiled is not None:
            gradients, (_, totals) = self._compiled(*_flat(chunk))
            return gradients, totals
        weights, gradients, sums = self._token_weights(chunk), dict[int, Tensor](), list[Tensor]()
        for index in range(len(self.terms)):
            term_gradients, values = self._of_term(index, chunk, weights)
            sums.append(values.sum())
            for number, gradient in enumerate(term_gradients):
                gradients[number] = gradients[number] + gradient if number in gradients else gradient
        return tuple(gradients.values()), torch.stack([torch.stack(sums), self._weight_sums(chunk, weights)])

    def weight_sums(self, chunk: Chunk) -> Tensor:
        """Return each term's sum of token weights, [terms]."""
        return self._weight_sums(chunk, self._token_weights(chunk))

    def of_term(self, index: int, chunk: Chunk) -> tuple[Logits, Tensor]:
        """Return one term's weighed gradients by the logits that it sees and its values [C], token weights included."""
        return self._of_term(index, chunk, self._token_weights(chunk))

    def nothing_to_compile(self, chunk: Chunk) -> bool:
        """Return whether PyTorch would only run analytic gradients on such a chunk, without weighing tokens."""
        return not self._weightings and all(
            self._analytic_gradient(index, chunk) is not None for index in range(len(self.terms))
        )

    def compile(self) -> None:
        """Compile losses and gradient together; errors come at the first call."""
        differentiated = torch.func.grad_and_value(self._objective_of_flat, has_aux=True)

        def reorder(logits: Logits, *flat: Any) -> tuple[Logits, tuple[Tensor, Tensor]]:
            gradients, (objective, totals) = differentiated(logits, *flat)
            return gradients, (objective, totals)

        # PyTorch keeps compiled variants, and their limit, by a function's code, name and line for the whole process:
        # phases trained earlier must not count.
        reorder.__code__ = reorder.__code__.replace(co_name=f"{reorder.__name__}_{next(_numbers)}")
        # With a fixed number of rows, each last chunk of a step would be compiled again.
        self._compiled = torch.compile(reorder, dynamic=True, fullgraph=True)

    def eager(self) -> None:
        """Switch back to uncompiled losses."""
        self._compiled = None

    def _objective_of_flat(self, logits: Logits, *flat: Any) -> tuple[Tensor, Tensor]:
        chunk = Chunk(*(*flat, logits))
        weights = self._token_weights(chunk)
        values = [self._values(index, chunk, weights).sum() for index in range(len(self.terms))]
        sums = torch.stack(values)
        return (sums * chunk.factors).sum(), torch.stack([sums, self._weight_sums(chunk, weights)])

    def _of_term(self, index: int, chunk: Chunk, weights: Tensor | None) -> tuple[Logits, Tensor]:
        factor, analytic = chunk.factors[index], self._analytic_gradient(index, chunk)
        if analytic is not None:
            values, gradient = analytic
            gradient.mul_(factor if weights is None else (factor * weights)[:, None])
            unseen = chunk.logits[0].shape[-1] - gradient.shape[-1]
            gradient = F.pad(gradient, (0, unseen)) if unseen else gradient
            return (gradient,), values if weights is None else values * weights
        with torch.enable_grad():
            leaves = _leaves(chunk.logits[: self.terms[index].term.forward_passes])
            values = self._values(index, replace(chunk, logits=leaves), weights)
            gradients = torch.autograd.grad(values.sum() * factor, leaves)
        return gradients, values.detach()

    def _analytic_gradient(self, index: int, chunk: Chunk) -> tuple[Tensor, Tensor] | None:
        gradient = self.terms[index].gradient
        if gradient is None:
            return None
        with torch.no_grad():
            return gradient(self.seen_by(index, chunk))

    def _values(self, index: int, chunk: Chunk, weights: Tensor | None) -> Tensor:
        values: Tensor = self.terms[index].call(self.seen_by(index, chunk))
        return values if weights is None else values * weights

    def _weight_sums(self, chunk: Chunk, weights: Tensor | None) -> Tensor:
        return torch.zeros_like(chunk.factors) if weights is None else weights.sum().expand_as(chunk.factors)

    def _token_weights(self, chunk: Chunk) -> Tensor | None:
        if not self._weightings:
            return None
        seen = self.seen_by_weightings(chunk)
        weights = self._weightings[0](seen).detach()
        for weighting in self._weightings[1:]:
            weights = weights * weighting(seen).detach()
        return weights

    def seen_by_weightings(self, chunk: Chunk) -> kdtool.TokenChunk:
        """Return what weightings of tokens see: the chunk of the first term that has a teacher, without gradient.

        At temperature 1, regardless of the term's, a mixture of teachers is like one model: a weighting can soften it like
        one teacher's logits.
        """
        index = next((i for i, teacher in enumerate(chunk.teachers) if teacher), 0)
        detached = replace(chunk, logits=tuple(of_pass.detach() for of_pass in chunk.logits))
        return self._make_token_chunk(index, detached, 1.0)

    def seen_by(self, index: int, chunk: Chunk) -> kdtool.TokenChunk:
        """Return what the term of that index sees."""
        return self._make_token_chunk(index, chunk, self.terms[index].term.temperature)

    def _make_token_chunk(self, index: int, chunk: Chunk, temperature: float) -> kdtool.TokenChunk:
        bound, teacher = self.terms[index], chunk.teachers[index]
        tokens: kdtool.DenseTokens | kdtool.SparseTokens | kdtool.ChosenTokens | None = None
        if bound.form == "dense":
            tokens = kdtool.DenseTokens(mixed_logits(teacher, bound.shares, temperature))
        elif bound.form == "chosen":
            tokens = kdtool.ChosenTokens(teacher[0], teacher[1], bound.captured_temperature)
        elif bound.form in ("sampled", "top-k"):
            tokens = kdtool.SparseTokens(teacher[0], teacher[1], bound.form, bound.captured_temperature)
        logits = chunk.logits[: bound.term.forward_passes]
        if bound.term.shared is not None:
            logits = tuple(of_pass[:, : bound.term.shared] for of_pass in logits)
        return kdtool.TokenChunk(
            student_logits=logits[0],
            labels=chunk.labels,
            teacher=tokens,
            positions=chunk.positions,
            temperature=temperature,
            progress=chunk.progress,
            step=chunk.step,
            columns=chunk.columns,
            second_logits=logits[1] if len(logits) > 1 else None,
        )


def _leaves(logits: Logits) -> Logits:
    return tuple(of_pass.detach().requires_grad_() for of_pass in logits)


def _flat(chunk: Chunk) -> tuple[Any, ...]:
    """Return logits, and then the other fields in their order, for a compiled function."""
    return (
        chunk.logits, chunk.labels, chunk.positions, chunk.columns, chunk.factors, chunk.progress, chunk.step,
        chunk.teachers,
    )  # fmt: skip


def mixed_logits(logits: Sequence[Tensor], shares: Sequence[float], temperature: float) -> Tensor:
    """Return T · log p with p = Σ_i share_i · softmax(logits_i / T): logits whose softmax at T is the mixture.

    So any loss that divides logits by T before its softmax gets p, like one teacher's distribution. The sum is computed in
    log space, so logits stay finite for tokens that all teachers find next to impossible.

    Args:
        logits: each teacher's, [C, V], of any floating types; computed in float32 or better.
        shares: one per teacher, above 0, summing to 1.
        temperature: T > 0, the term's.

    Returns:
        [C, V]; for one teacher, its logits unchanged.
    """
    if len(logits) == 1:
        return logits[0]
    mixture: Tensor | None = None
    for of_teacher, share in zip(logits, shares, strict=True):
        scaled = of_teacher.to(torch.promote_types(of_teacher.dtype, torch.float32)) / temperature
        weighed = scaled.log_softmax(-1) + log(share)
        mixture = weighed if mixture is None else mixture.logaddexp(weighed)
    assert mixture is not None  # noqa: S101 - there is a teacher
    return mixture * temperature


def joined_samples(ids: Sequence[Tensor], weights: Sequence[Tensor], shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return all teachers' tokens [C, ΣK], weights times the teacher's share.

    Σ_i share_i · (an unbiased estimate of p_i) is an unbiased estimate of the mixture. An id that several teachers drew
    appears several times.
    """
    weighed = [of_teacher * share for of_teacher, share in zip(weights, shares, strict=True)]
    return torch.cat(list(ids), -1), torch.cat(weighed, -1)


_LOGITS_TO_PAY = 10_000_000_000
"""Logits to come, over the vocabulary and all processes, from which compiling pays on a CPU. Estimated for two cores and
49,152 tokens: an eager loss takes about 0.25 ms per position, a compiled one half of it, and compiling 12 s: about
100,000 positions, and twice as many to be sure."""


def compiled_or_eager(loss: ChunkLoss, mode: str, chunk: Chunk, positions_to_come: int, run: kdtool.RunInfo) -> None:
    """Compile `loss` if `mode` is "on", or "auto" and compiling pays; leave it eager if compiling fails.

    `chunk` is a real one. `positions_to_come` counts the positions of the whole phase.
    """
    if mode == "off" or not loss.terms or (mode == "auto" and not _pays(loss, chunk, positions_to_come)):
        return
    loss.compile()
    try:
        with torch.no_grad():  # as the chunked head calls it: in another mode it would be compiled once more
            loss(chunk)
            loss(_but_last(chunk))  # must not be compiled again later
    except Exception as error:
        loss.eager()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        run.say(f"the losses run uncompiled, which is slower: compiling failed ({reason[:200]})")


def _pays(loss: ChunkLoss, chunk: Chunk, positions_to_come: int) -> bool:
    if chunk.logits[0].device.type == "cuda":
        return True
    if loss.nothing_to_compile(chunk):
        return False  # measured: compiled, losses take from 0.8 to 1.8 times as long there
    return positions_to_come * chunk.logits[0].shape[1] >= _LOGITS_TO_PAY


def _but_last(chunk: Chunk) -> Chunk:
    rows = slice(0, len(chunk.labels) - 1)
    teachers = tuple(tuple(tensor[rows] for tensor in teacher) for teacher in chunk.teachers)
    return chunk.select(rows, teachers, tuple(of_pass[rows] for of_pass in chunk.logits))
