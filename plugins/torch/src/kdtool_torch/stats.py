"""Figures of a step: values, gradient norms, overlap with the teacher, and origins of values that are not finite.

Figures are gathered on the device without reading them, and read once when the step is over.

The strength of a term is the norm of its weighed gradient by states of the student that all terms share: the final
states, or the embedding's output if a term compares layers inside the models, since norms at different points have no
common unit. It is measured about every tenth step, or at every step if a weighting uses it. A term whose norm is far
below the others' has no effect, although its value may look normal. The graph of the step itself is never used: kernels
that compute gradients in place (Liger) or free what they saved (torch.compile) allow one backward pass. Final states
are leaves here, and the embedding's output comes from a separate forward pass for each term, over few rows.

Values or gradients that are not finite are attributed to the student, the dtype or one loss before any weight has
changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Self

import kdtool
import torch
from torch import Tensor, nn

from kdtool_torch.device import sum_over_ranks
from kdtool_torch.head import HeadWork, SequenceHead, product
from kdtool_torch.inputs import MicroBatch, imitated_by_row, select_rows
from kdtool_torch.terms import BoundTerm
from kdtool_torch.weightings.tokens import WeightMeans


@dataclass(eq=False)
class StepStats:
    """One step's figures on this rank: each term's share of the mean value, and of its squared gradient norm.

    `weights` is its sum of token weights. `seen` is how many tokens (or rows) it sees on all ranks, not on this one.
    `overlap` is the sum of `sampled_overlaps` over micro-batches, [4].
    """

    values: Tensor
    squared_norms: Tensor
    weights: Tensor
    seen: Tensor
    overlap: Tensor
    tokens: Tensor = field(default_factory=lambda: torch.zeros(()))
    is_finite: Tensor | None = None
    """False if a value or gradient of a term is not; None before the first micro-batch."""

    def add_check(self, is_finite: Tensor) -> None:
        """Note whether a micro-batch's values are finite, 0-d bool, without reading it."""
        self.is_finite = is_finite if self.is_finite is None else self.is_finite & is_finite

    def read(self, gradient_norm: Tensor) -> StepFigures:
        """Return all figures in main memory, for which the host of a GPU waits: call it once per step."""
        finite = torch.ones_like(self.values[:1]) if self.is_finite is None else self.is_finite.float()[None]
        parts = self.values, self.squared_norms, self.weights, self.seen, self.overlap
        flat = torch.cat([*parts, finite, gradient_norm.float()[None]]).tolist()
        count = len(self.values)
        values, squared_norms, weights, seen = (flat[start : start + count] for start in range(0, 4 * count, count))
        overlap = flat[4 * count : -2]
        return StepFigures(values, squared_norms, weights, seen, overlap, bool(flat[-2]), gradient_norm=flat[-1])


@dataclass(frozen=True)
class StepFigures:
    """A step's `StepStats` on this rank in main memory, one number for each term, and the norm of the whole gradient."""

    values: list[float]
    squared_norms: list[float]
    weights: list[float]
    seen: list[float]
    overlap: list[float]
    is_finite: bool
    gradient_norm: float


@dataclass
class TermState:
    """State of a phase's terms besides tensors, for checkpoints: `dataclasses.asdict` makes it JSON, `read` reads that."""

    reports: Mapping[str, kdtool.TermReport] | None = None
    """The last step's figures by term, from which weightings balance the next; a term without tokens is missing."""
    squared_norms: Mapping[str, float] | None = None
    """Sums of squared gradient norms since the phase began: which terms did nothing."""
    token_weights: Mapping[str, Sequence[float]] | None = None
    """The state of `WeightMeans`; None if no tokens are weighed, and before the first step."""
    balances: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The state of weightings that balance, by their names."""

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Return the state that `asdict` has made JSON of."""
        reports = content["reports"]
        return cls(**{**content, "reports": reports and {n: kdtool.TermReport(**each) for n, each in reports.items()}})

    def balance(self, run: kdtool.RunInfo, terms: Sequence[BoundTerm], step: int) -> Mapping[str, float]:
        """Return the product of all weightings' factors by name of the term, from the figures of the step before.

        Raises:
            PluginError: a weighting returned something else than finite factors of at least 0 for these terms.
        """
        product = {bound.term.name: 1.0 for bound in terms}
        if self.reports is None:
            return product
        for name in run.implementing("kdtool_balance"):
            state = self.balances.setdefault(name, {})
            factors = run.component(name, kdtool.Weighting).kdtool_balance(self.reports, step, state) or {}
            bad = {
                term: factor for term, factor in factors.items() if term not in product or not 0 <= factor < math.inf
            }
            if bad:
                raise kdtool.PluginError(
                    f"{run.hook.owner(name) or name} balanced {bad}; expected factors that are finite and not negative, for "
                    f"{', '.join(sorted(product))}"
                )
            product |= {term: product[term] * factor for term, factor in factors.items()}
        return product

    def add_token_weights(self, run: kdtool.RunInfo, terms: Sequence[BoundTerm], figures: StepFigures) -> None:
        """Add the step's token weights, of all ranks, to the running means."""
        names = [bound.term.name for bound in terms]
        means = WeightMeans(self.token_weights or {})
        weights = sum_over_ranks(figures.weights, run.world)
        means.add(dict(zip(names, weights, strict=True)), dict(zip(names, figures.seen, strict=True)))
        if self.token_weights is None and not means.state and run.rank == 0:
            run.say("weightings: no token of the first step has a weight, so nothing is learned from it")
        self.token_weights = means.state

    def add_report(
        self,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        terms: Sequence[BoundTerm],
        weights: Sequence[float],
        figures: StepFigures,
        measured: bool,
    ) -> dict[str, kdtool.TermReport]:
        """Return the step's terms by label, gathered over ranks; `weights` include balance, `measured` are the norms."""
        count = len(terms)
        gathered = sum_over_ranks([*figures.values, *figures.squared_norms], run.world)
        of_terms = zip(terms, weights, gathered[:count], gathered[count:], figures.seen, strict=True)
        reports, kept = dict[str, kdtool.TermReport](), dict[str, kdtool.TermReport]()
        norms = dict(self.squared_norms or {})
        for bound, weight, value, square, seen in of_terms:
            if not seen:  # a mean over nothing is no figure
                continue
            term, norm = bound.term, math.sqrt(square) if measured else None
            reports[term.label] = kdtool.TermReport(value * term.scale, weight, norm)
            # Norms that no weighting asks for exist only at some steps: nothing may depend on them.
            kept[term.name] = replace(reports[term.label], gradient_norm=norm if phase.gradient_norms else None)
            if measured:
                norms[term.name] = norms.get(term.name, 0.0) + square
        self.squared_norms, self.reports = norms, kept
        return reports


SAMPLED_POSITIONS = 64
"""Sampled positions of a micro-batch: about 2 % of a step's time for two token losses and 49,152 tokens, if norms are taken
at the final states. At the embedding's output each loss costs a pass over the few rows that hold them."""


def squared_norms_at_last(work: HeadWork, divisor: Tensor) -> Tensor:
    """Return, for each token loss, the squared norm of its gradient by the final states, estimated from some positions.

    With two passes, the norm is that of both gradients together.
    """
    count, device = work.hidden[0].shape[0], work.hidden[0].device
    if count == 0:
        return torch.zeros(len(work.loss.terms), device=device)
    sampled = evenly_spread(count, device)
    terms = range(len(work.loss.terms))
    squares = [_sum_of_squares(passes, device) for passes in _by_last(work, sampled, terms)]
    return torch.stack(squares) * (count / len(sampled)) / divisor**2


def evenly_spread(count: int, device: torch.device) -> Tensor:
    """Return numbers of at most `SAMPLED_POSITIONS` of `count` positions."""
    return torch.linspace(0, count - 1, min(count, SAMPLED_POSITIONS), device=device).round().long()


def squared_norm_of_sequence_loss(objective: Callable[[kdtool.StepView], Tensor], view: kdtool.StepView) -> Tensor:
    """Return the squared norm of a sequence loss's gradient by the final states, for one that sees no others.

    `objective` returns the loss, weighted and divided, of a view.
    """
    passes = [view.student] if view.second is None else [view.student, view.second]
    leaves = [outputs.last.detach().requires_grad_() for outputs in passes]
    of_leaves = [replace(outputs, last=leaf) for outputs, leaf in zip(passes, leaves, strict=True)]
    head = view.head.frozen() if isinstance(view.head, SequenceHead) else view.head
    second = of_leaves[1] if len(passes) > 1 else None
    value = objective(replace(view, student=of_leaves[0], second=second, head=head))
    return _squared_norm(value, leaves)


def squared_norms_at_embedding(
    of_term: Callable[[int, MicroBatch, float], tuple[Tensor, Tensor]],
    terms: int,
    embedding: nn.Module,
    micro_batch: MicroBatch,
    tokens: float,
) -> Tensor:
    """Return each term's squared norm by the embedding's output, [terms], each from a separate forward pass.

    Rows do not see each other, so the norm of all is estimated from some rows, which hold `SAMPLED_POSITIONS` or more.
    Random numbers are drawn aside: the step draws the same as without this.

    Args:
        of_term: returns the objective of the term with a number, undivided, and its divisor.
        terms: how many there are.
        embedding: the student's.
        micro_batch: B rows.
        tokens: positions in the loss mask of the whole step.
    """
    rows, share = _sampled_rows(micro_batch.batch)
    few, device, squares = select_rows(rows, micro_batch), micro_batch.batch.labels.device, []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for term in range(terms):
            with _states_of(embedding) as states:
                value, divisor = of_term(term, few, tokens)
            squares.append(_squared_norm(value, states) / divisor**2)
    return torch.stack(squares) / share


def objective_of_token_loss(work: HeadWork, term: int) -> Tensor:
    """Return a number whose gradient by the final states [N, H] of each pass is that of one token loss, undivided."""
    (gradients,) = _by_last(work, torch.arange(len(work.hidden[0]), device=work.hidden[0].device), [term])
    products = (states.float() * gradient for states, gradient in zip(work.hidden, gradients, strict=False))
    return torch.stack([each.sum() for each in products]).sum()


def _sampled_rows(batch: kdtool.Batch) -> tuple[list[int], float]:
    """Return few of the rows that have something to imitate, evenly spaced, and their share of these."""
    counts = imitated_by_row(batch)
    rows = [row for row, count in enumerate(counts) if count] or [0]
    few = min(len(rows), -(-SAMPLED_POSITIONS * len(rows) // max(1, sum(counts))))
    return [rows[round(index * (len(rows) - 1) / max(1, few - 1))] for index in range(few)], few / len(rows)


@contextmanager
def _states_of(embedding: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the embedding's outputs while the block runs, one tensor [B, L, H] per pass."""
    states: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        states.append(output if output.requires_grad else output.detach().requires_grad_())  # frozen embeddings
        return states[-1]

    hook = embedding.register_forward_hook(keep)
    try:
        yield states
    finally:
        hook.remove()


def _by_last(work: HeadWork, sampled: Tensor, terms: Sequence[int]) -> list[list[Tensor]]:
    """Return the undivided gradients of these terms by the final states of each pass, [C, H], at these positions."""
    parts_by_term: dict[int, list[list[Tensor]]] = {index: [] for index in terms}
    projection = work.projection
    with torch.no_grad(), torch.autocast(sampled.device.type, enabled=False):
        for rows in torch.split(sampled, work.loss_chunk_size):
            chunk = work.chunk(rows)
            for index, parts in parts_by_term.items():
                gradients = work.loss.of_term(index, chunk)[0]
                by_head = [projection.before_cap(g, z) for g, z in zip(gradients, chunk.logits, strict=False)]
                parts.append([product(of_pass.to(projection.dtype), projection.weight) for of_pass in by_head])
    return [[torch.cat(parts) for parts in zip(*of_term, strict=True)] for of_term in parts_by_term.values()]


def _squared_norm(value: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Return the squared norm of a number's gradient by all `states` together."""
    if not value.requires_grad:
        return torch.zeros((), device=value.device)
    return _sum_of_squares(torch.autograd.grad(value, states, allow_unused=True), value.device)


def _sum_of_squares(gradients: Iterable[Tensor | None], device: torch.device) -> Tensor:
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), device=device)


_NARROW = "dtype: float32, or bfloat16 where there is one, since float16 ends at 65,504"


def raise_if_student_diverged(outputs: Tensor, step: int, what: str = "final states") -> None:
    """Raise if the student's own outputs are not finite.

    Raises:
        UsageError: training has run away; no loss is at fault.
    """
    if not bool(outputs.isfinite().all()):
        raise kdtool.UsageError(
            f"training diverged at step {step}: the student's {what} are not finite. A lower learning_rate, a longer "
            f"warmup or gradient_clip: 1.0 is the usual remedy, else {_NARROW}; the last checkpoint is kept"
        )


def raise_for_token_losses(run: kdtool.RunInfo, work: HeadWork, step: int) -> NoReturn:
    """Look through all positions, term by term, and raise with the name of the first culprit.

    Raises:
        UsageError: the student's states or logits are not finite themselves.
        PluginError: a loss gave a value or a gradient that is not finite.
    """
    for of_pass in work.hidden:
        raise_if_student_diverged(of_pass.detach(), step)
    count, size = len(work.hidden[0]), work.loss_chunk_size
    with torch.no_grad(), torch.autocast(work.hidden[0].device.type, enabled=False):
        for start in range(0, count, size):
            chunk = work.chunk(slice(start, start + size))
            for of_pass in chunk.logits:
                raise_if_student_diverged(of_pass, step, "logits")
            for index, bound in enumerate(work.loss.terms):
                gradients, values = work.loss.of_term(index, chunk)
                for tensor, did in ((values, "returned"), *((each, "has a gradient of") for each in gradients)):
                    if not bool(tensor.isfinite().all()):
                        raise_nonfinite_loss(run, bound.term, step, did, float(tensor[~tensor.isfinite()][0]))
    raise kdtool.UsageError(
        f"the loss is not finite at step {step}, though each single term is: the sum overflows {work.dtype}. "
        "Lower weights, or dtype: float32, are the remedy; the last checkpoint is kept"
    )


def raise_nonfinite_gradient(norm: float, step: int, terms: Iterable[BoundTerm]) -> NoReturn:
    """Raise a `UsageError` for a gradient that is not finite, though every term's value is."""
    suspects = [*(bound.term.label for bound in terms if not bound.per_token), "the backbone"]
    raise kdtool.UsageError(
        f"the gradient's norm is {norm} at step {step}, though every term's value is finite. Either training diverged: a "
        "lower learning_rate, a longer warmup or gradient_clip: 1.0 is the usual remedy. Or the gradient of "
        f"{' or '.join(suspects)} is wrong: look for square roots and norms at zero. The last checkpoint is kept"
    )


def raise_nonfinite_loss(run: kdtool.RunInfo, term: kdtool.LossTerm, step: int, did: str, value: float) -> NoReturn:
    """Raise a `PluginError` that names the term."""
    raise kdtool.PluginError(
        f"{run.hook.owner(term.name) or f'loss {term.name!r}'} {did} {value} at step {step}, from states that are finite. "
        "Expected: a finite value and gradient for any finite logits (look for log(0), 0/0 and square roots of 0); "
        "training stopped, the last checkpoint is kept"
    )
