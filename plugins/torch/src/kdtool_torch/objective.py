"""The objective of a phase: its losses with weights, teachers and weightings, of one step's rows.

`Objective` is the student and all that trains along, as one `torch.nn.Module` that returns the loss. The trainer calls it
once per micro-batch, under autocast and where needed in DDP; signals of teachers are arguments, so that they can be read in
advance. Other trainers call `losses` with numbers of rows. Everything common to all losses happens here: weights and their
schedules, balance, factors for softened distributions, means of token weights, denominators, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import kdtool
import torch
from torch import Tensor, nn

from kdtool_torch.batch import collate, count_targets, loss_mask, move, select, select_at_labels
from kdtool_torch.device import isolated_rng, sum_over_ranks
from kdtool_torch.head import HeadWork, SequenceHead, head_loss, sequence_head, weight_sums
from kdtool_torch.inputs import MicroBatch, TeacherSignals, select_signal
from kdtool_torch.machine import chunk_sizes
from kdtool_torch.numerics import product_dtype, require_finite
from kdtool_torch.overlap import sampled_overlaps
from kdtool_torch.selftest import self_test
from kdtool_torch.stats import (
    StepFigures,
    StepStats,
    TermState,
    objective_of_token_loss,
    raise_for_token_losses,
    raise_if_student_diverged,
    raise_nonfinite_loss,
    squared_norm_of_sequence_loss,
    squared_norms_at_embedding,
    squared_norms_at_last,
)
from kdtool_torch.terms import BoundTerm, Chunk, ChunkLoss, bind_terms, learns_on_policy
from kdtool_torch.weightings.tokens import WeightMeans


@dataclass(frozen=True)
class Sizes:
    """Shapes and precision of the work: see `kdtool_torch.trainer.StandardTrainerConfig`."""

    dtype: torch.dtype
    head_chunk_size: int
    loss_chunk_size: int
    rows_per_step: int
    """Rows of one step over all micro-batches and ranks: what sequence losses are divided by."""


def make_loss_modules(run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel) -> dict[str, nn.Module]:
    """Return the modules that losses train along with the student, by their terms' names.

    Raises:
        PluginError: a teacher that a loss makes its module for does not describe itself.
    """
    facts = dict[str, kdtool.ModelFacts]()
    for term in phase.terms:
        if term.name in run.implementing("kdtool_modules") and term.teacher is not None:
            described = run.component(term.teacher, kdtool.Teacher).kdtool_describe(run)
            if described is None:
                raise kdtool.PluginError(
                    f"{term.teacher} does not describe itself, which {term.name} needs for its modules"
                )
            facts[term.name] = described
    with isolated_rng(run.seed):
        modules = {
            name: run.component(name, kdtool.SequenceLoss).kdtool_modules(student.facts, teacher)
            for name, teacher in facts.items()
        }
    return {name: module for name, module in modules.items() if module is not None}


class Objective(nn.Module):
    """Student and loss modules; `forward` returns a micro-batch's share of the step's loss.

    Logits exist for one chunk of positions after the other, and the first rows with labels test student, teachers and
    losses. Its parameters are those of the student and of the modules that losses train along. Store `state` with them.

    Args:
        run: of the trainer.
        phase: the phase to train.
        student: its backbone runs once per micro-batch for each pass that losses ask for, with gradient.
        sizes: by default those for the student and its device, in autocast's dtype at each step.

    Raises:
        kdtool.UsageError: the phase has no rows.
    """

    def __init__(
        self, run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel, sizes: Sizes | None = None
    ) -> None:
        super().__init__()
        if not len(phase.rows):
            raise kdtool.UsageError(f"phase {phase.name!r} has no rows: give it a corpus with more text")
        self.run, self.phase, self.language_model, self.student = run, phase, student, student.model
        device = student.head.weight.device
        modules = make_loss_modules(run, phase, student)
        self.loss_modules = nn.ModuleDict({module_key(name): module for name, module in modules.items()}).to(device)
        self.sizes = sizes or Sizes(
            product_dtype(student.head.weight), *chunk_sizes(student.head.vocabulary, device), rows_per_step=1
        )
        self.state = TermState()
        self.progress, self.step = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        self.weights: list[float] = []
        """Each term's weight in the step, balance included."""
        self.on_policy = False
        """True if the student wrote the step's text, from which some terms learn nothing. Set by the loop, as the next."""
        self.measures_norms = self.measures_overlap = False
        self.checks_at_once = False
        """Raise in `forward` for values that are not finite. A GPU would wait for each check, so the loop reads `stats` when
        the step is over, and only then computes it again with checks."""
        self._wanted = phase.student_request
        self._buffers_of_logits: dict[Any, Tensor] = {}
        self._is_tested = False
        self.bind(())

    @cached_property
    def teachers(self) -> TeacherSignals:
        """The phase's teachers, which it asks for their signals."""
        return TeacherSignals(self.run, self.phase, self.language_model, self.sizes.dtype, self.sizes.head_chunk_size)

    def test(self, batch: kdtool.Batch) -> Chunk:
        """Bind the terms to the teachers' signals for a batch, and test student, teachers and losses on it.

        Returns:
            A real chunk, of the size that the token losses will be called with.

        Raises:
            kdtool.UsageError: teacher, student and losses do not fit together.
            kdtool.PluginError: a plugin returned something that its contract does not allow.
        """
        with isolated_rng():
            micro_batch = self._ask(batch)
            if not self.terms:
                self.bind(bind_terms(self.run, self.phase, micro_batch.signals))
            chunk = self_test(self, micro_batch)
        self._is_tested = True
        return chunk

    def bind(self, terms: Sequence[BoundTerm]) -> Self:
        """Take the phase's terms, bound to the form in which teachers answer: see `bind_terms`."""
        self.terms, device = tuple(terms), self.progress.device
        weightings = self.run.bound("kdtool_token_weight")
        self.chunk_loss = ChunkLoss([bound for bound in terms if bound.per_token], [*weightings.values()])
        self.forward_passes = max((bound.term.forward_passes for bound in terms), default=1)
        self._token = [index for index, bound in enumerate(terms) if bound.per_token]
        self._sequence = [index for index, bound in enumerate(terms) if not bound.per_token]
        self._token_index = torch.tensor(self._token, dtype=torch.int64, device=device)
        inside = any(bound.term.layers or bound.term.routing for bound in terms)
        self._embedding = [m for m in self.student.modules() if inside and isinstance(m, nn.Embedding)][:1]
        self.factors = torch.ones(len(terms), device=device)
        self._learns_on_policy = torch.tensor([float(learns_on_policy(bound.term)) for bound in terms], device=device)
        self.mean_weights = torch.ones(len(self._token), device=device)
        """Each token loss's mean token weight."""
        self.weighs = bool(weightings) and bool(self._token)
        self.stats = self._empty_stats()
        return self

    def begin_step(self, step: int, *, measure_norms: bool = False) -> None:
        """Prepare for the step with this number, from 1: weights, balance, means of token weights."""
        share = (step - 1) / max(1, self.phase.steps - 1)
        balance = self.state.balance(self.run, self.terms, step)
        self.weights = [bound.term.weight_at(share) * balance[bound.term.name] for bound in self.terms]
        factors = [weight * bound.term.scale for weight, bound in zip(self.weights, self.terms, strict=True)]
        self.set_step(step, share, factors, measure_norms=measure_norms)
        if self.state.token_weights is not None:
            means = WeightMeans(self.state.token_weights)
            of_terms = torch.tensor([means.of(bound.term.name) for bound in self.terms if bound.per_token])
            self.mean_weights.copy_(of_terms, non_blocking=True)

    def set_step(self, step: int, progress: float, factors: Sequence[float], *, measure_norms: bool = False) -> None:
        """Prepare for a step with given `factors`: weight · scale · balance of each term."""
        self.step.fill_(step)
        self.progress.fill_(progress)
        self.factors.copy_(torch.tensor(factors, dtype=torch.float32), non_blocking=True)
        self.factors *= self._learning()
        self.measures_norms = measure_norms
        self.stats = self._empty_stats()

    def weigh(self, micro_batches: Iterable[MicroBatch], num_items_in_batch: float) -> None:
        """Weigh the tokens of the first step before it is made: its own weights are all that is known of their mean."""
        if not self.weighs or self.state.token_weights is not None:
            return
        with torch.no_grad(), isolated_rng():
            for micro_batch in micro_batches:
                self._add_weights(self.of_work(weight_sums, micro_batch, num_items_in_batch))
        self.state.add_token_weights(self.run, self.terms, self.stats.read(torch.zeros_like(self.progress)))

    def forward(self, micro_batch: MicroBatch, num_items_in_batch: float) -> Tensor:
        """Return this micro-batch's share of the step's loss.

        Args:
            micro_batch: B rows; N of their positions have a label.
            num_items_in_batch: positions in the loss mask of the whole step, over all ranks and micro-batches.
        """
        outputs = self._begin(micro_batch, num_items_in_batch)
        loss = self._token_losses(micro_batch, outputs)
        head = self.sequence_head()
        for index in self._sequence:
            view = self.view(self.terms[index], micro_batch, outputs, head)
            loss = loss + self._sequence_loss(index, view)
        return loss

    def of_work(
        self, function: Callable[[HeadWork], Tensor], micro_batch: MicroBatch, num_items_in_batch: float
    ) -> Tensor:
        """Return what a function makes of the work of the token losses, which are not computed."""
        return function(self.head_work(micro_batch, self._begin(micro_batch, num_items_in_batch)))

    def of_term(self, term: int, micro_batch: MicroBatch, num_items_in_batch: float) -> tuple[Tensor, Tensor]:
        """Return an objective with the gradient of only this term, undivided, and its divisor."""
        outputs = self._begin(micro_batch, num_items_in_batch)
        if term in self._token:
            work = self.head_work(micro_batch, outputs)
            return objective_of_token_loss(work, self._token.index(term)), self.stats.tokens
        view = self.view(self.terms[term], micro_batch, outputs, self.sequence_head().frozen())
        values, divisor = self._sequence_values(term, view)
        return values.sum() * self.factors[term], divisor

    def _begin(self, micro_batch: MicroBatch, num_items_in_batch: float) -> tuple[kdtool.ModelOutputs, ...]:
        """Note how many tokens the step has, and run the student."""
        self.stats.tokens = torch.full((), max(1.0, num_items_in_batch), device=self.progress.device)
        self.stats.seen = self._learning() * num_items_in_batch
        for teacher, signal in micro_batch.signals.items() if self.checks_at_once else ():
            require_finite(signal, teacher)
        return self.run_student(micro_batch.batch)

    def measure_norms(self, micro_batch: MicroBatch, num_items_in_batch: float) -> None:
        """Measure each term's gradient at the embedding's output if the step asks for it and a term compares layers.

        Called before each micro-batch's `forward`, which measures it at the final states if none does. Arguments are the
        same.
        """
        if self.measures_norms and self._embedding:
            self.stats.squared_norms += squared_norms_at_embedding(
                self.of_term, len(self.terms), self._embedding[0], micro_batch, num_items_in_batch
            )

    def end_step(self, step: int, figures: StepFigures) -> None:
        """Keep the token weights of a step; those of the first step are there already."""
        if self.weighs and step > 1:
            self.state.add_token_weights(self.run, self.terms, figures)

    def report(self, figures: StepFigures) -> dict[str, kdtool.TermReport]:
        """Return the step's terms by label, gathered over ranks; `state` keeps what balance and final notes need."""
        return self.state.add_report(self.run, self.phase, self.terms, self.weights, figures, self.measures_norms)

    def loss(self, rows: Sequence[int], step: int) -> tuple[Tensor, int]:
        """Return the loss of a step that is one micro-batch, and its number of tokens: see `losses`."""
        ((loss, tokens),) = self.losses([rows], step)
        return loss, tokens

    def losses(self, micro_batches: Sequence[Sequence[int]], step: int) -> Iterator[tuple[Tensor, int]]:
        """Yield each micro-batch's share of the step's loss, with gradient, and the number of tokens learned from.

        Call `backward` once on each loss, before the next is computed. The gradients add up to those of the whole step,
        however it is divided. `state` is that of the step once all losses are taken. All processes call it for the same
        steps, and take all losses: each evaluates its own rows. Add up the gradients of all; DDP takes their mean, so
        multiply each loss by `run.world`.

        Args:
            micro_batches: numbers of the rows of each, of this process.
            step: from 1.

        Raises:
            kdtool.UsageError: teacher, student and losses do not fit together.
            kdtool.PluginError: a loss returns something else than one finite float32 value for each position.
        """
        batches = [collate([self.phase.rows[row] for row in rows]) for rows in micro_batches]
        counts = [count_targets(batch) for batch in batches]
        tokens, rows = sum_over_ranks([sum(counts), sum(map(len, micro_batches))], self.run.world)
        dtype = product_dtype(self.language_model.head.weight)
        self.sizes = replace(self.sizes, dtype=dtype, rows_per_step=int(rows))
        if not self._is_tested:
            fullest = max(range(len(counts)), key=counts.__getitem__)
            self.checks_at_once = True
            if counts[fullest]:
                self.test(batches[fullest])
            elif not self.terms:
                self.bind(bind_terms(self.run, self.phase, self._ask(batches[fullest]).signals))
        self.weigh(map(self._ask, batches), tokens)
        self.begin_step(step)
        for batch, count in zip(batches, counts, strict=True):
            yield self(self._ask(batch), tokens), count
        figures = self.stats.read(torch.zeros_like(self.progress))
        self.report(figures)
        self.end_step(step, figures)

    def _ask(self, batch: kdtool.Batch) -> MicroBatch:
        with torch.no_grad():
            return self.teachers(move(batch, self.progress.device))

    def run_student(self, batch: kdtool.Batch) -> tuple[kdtool.ModelOutputs, ...]:
        """Run the backbone once, or twice if a loss asks for two passes; each draws its own dropout."""
        return tuple(self.language_model.backbone(batch, self._wanted) for _ in range(self.forward_passes))

    def head_work(self, micro_batch: MicroBatch, outputs: Sequence[kdtool.ModelOutputs]) -> HeadWork:
        """Return what the chunked head needs for a batch: its positions in the loss mask, row-major."""
        batch, signals = micro_batch.batch, micro_batch.signals
        where = loss_mask(batch)
        if where is not None:
            signals = {name: select_signal(signal, where) for name, signal in signals.items()}

        def of(values: Tensor) -> Tensor:
            return select(select_at_labels(values, batch), where)

        rows = Chunk(
            labels=of(batch.labels),
            positions=of(batch.positions),
            columns={name: of(column) for name, column in batch.columns.items()},
            factors=self.factors[self._token_index] / self.mean_weights,
            progress=self.progress,
            step=self.step,
        )
        return HeadWork(
            loss=self.chunk_loss,
            rows=rows,
            signals=signals,
            hidden=[select(output.last, where) for output in outputs[: self.chunk_loss.forward_passes]],
            head=self.language_model.head,
            dtype=self.sizes.dtype,
            head_chunk_size=self.sizes.head_chunk_size,
            loss_chunk_size=self.sizes.loss_chunk_size,
            buffers=self._buffers_of_logits,
        )

    def _token_losses(self, micro_batch: MicroBatch, outputs: tuple[kdtool.ModelOutputs, ...]) -> Tensor:
        if not self._token:
            return self._zero_of_all(outputs[0])
        work = self.head_work(micro_batch, outputs)
        loss = head_loss(work, self.stats.tokens)
        self.stats.add_check(work.finite)
        if self.checks_at_once and not bool(work.finite):
            raise_for_token_losses(self.run, work, int(self.step))
        self.stats.values[self._token_index] += work.totals[0] / (self.stats.tokens * self.mean_weights)
        self._add_weights(work.totals[1])
        if self.measures_norms and not self._embedding:
            self.stats.squared_norms[self._token_index] += squared_norms_at_last(work, self.stats.tokens)
        if self.measures_overlap:
            self.stats.overlap += sampled_overlaps(work)
        return loss

    def _learning(self) -> Tensor:
        """Return 1 for each term that learns from the step's text, else 0, [terms]."""
        return self._learns_on_policy if self.on_policy else torch.ones_like(self.factors)

    def _add_weights(self, sums: Tensor) -> None:
        """Add sums of token weights, [token losses], of the terms that learn from them."""
        self.stats.weights[self._token_index] += sums * self._learning()[self._token_index]

    def _zero_of_all(self, outputs: kdtool.ModelOutputs) -> Tensor:
        """Return 0 with a gradient of 0 for backbone and head, which no token loss uses: DDP waits for all gradients."""
        head = self.language_model.head
        unused = [outputs.last.float().sum(), head.weight.sum(), *([] if head.bias is None else [head.bias.sum()])]
        return torch.stack([each * 0 for each in unused]).sum()

    def sequence_head(self) -> SequenceHead:
        """Return the student's head for the sequence losses of one micro-batch."""
        return sequence_head(self.language_model.head, self.sizes.dtype)

    def view(
        self, bound: BoundTerm, micro_batch: MicroBatch, outputs: tuple[kdtool.ModelOutputs, ...], head: SequenceHead
    ) -> kdtool.StepView:
        """Return what a sequence loss sees; all of a micro-batch share `head`."""
        teacher = bound.term.teacher or ""
        signal, teacher_batch = micro_batch.signals.get(teacher), micro_batch.teacher_batches.get(teacher)
        shared = bound.term.shared
        head = head if shared is None else replace(head, vocabulary=min(shared, head.vocabulary))
        if signal is not None and signal.lazy is not None:
            signal = replace(signal, lazy=replace(signal.lazy, head=sequence_head(signal.lazy.head).frozen()))
        second = outputs[1] if bound.term.forward_passes == 2 else None
        inside = bound.term.layers, dict(self.loss_modules.items()).get(module_key(bound.term.name))
        return kdtool.StepView(
            micro_batch.batch, outputs[0], signal, self.progress, self.step, teacher_batch, head, second, *inside
        )

    def _sequence_loss(self, index: int, view: kdtool.StepView) -> Tensor:
        bound = self.terms[index]
        value = self._sequence_mean(index, view)
        self.stats.add_check(value.detach().isfinite())
        if self.checks_at_once and not bool(value.isfinite()):
            for output in (view.student, view.second):
                if output is not None:
                    raise_if_student_diverged(output.last.detach(), int(self.step))
            raise_nonfinite_loss(self.run, bound.term, int(self.step), "returned", float(value))
        self.stats.values[index] += value.detach()
        if self.measures_norms and not self._embedding:

            def objective(of_leaves: kdtool.StepView) -> Tensor:
                return self._sequence_mean(index, of_leaves) * self.factors[index]

            self.stats.squared_norms[index] += squared_norm_of_sequence_loss(objective, view)
        return value * self.factors[index]

    def _sequence_mean(self, index: int, view: kdtool.StepView) -> Tensor:
        values, divisor = self._sequence_values(index, view)
        return values.sum() / divisor

    def _sequence_values(self, index: int, view: kdtool.StepView) -> tuple[Tensor, Tensor]:
        """Return a sequence loss's values at positions or rows that count, and how many of them the step has."""
        result = self.terms[index].call(view)
        values: Tensor = result.values.float()
        if isinstance(result, kdtool.PerToken):
            return select(values, loss_mask(view.batch)), self.stats.tokens
        rows = torch.full_like(self.stats.tokens, self.sizes.rows_per_step)
        self.stats.seen[index] = rows * self._learning()[index]
        return values, rows

    def _empty_stats(self) -> StepStats:
        return StepStats(*(torch.zeros(size, device=self.progress.device) for size in (*[len(self.terms)] * 4, 4)))


def module_key(name: str) -> str:
    """Return the name of a term's module: torch allows no dots in it."""
    return name.replace(".", "/")
