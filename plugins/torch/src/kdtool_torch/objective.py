"""The distillation module: the student and all that trains along, as one `torch.nn.Module` that returns the loss.

The loop calls it once per micro-batch, under autocast and where needed in DDP. The teacher is not part of it: its
signals are arguments. Everything common to all losses happens here: weights and their schedules, factors for softened
distributions, denominators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import kdtool
import torch
from torch import Tensor, nn

from kdtool_torch.batch import loss_mask, select, select_at_labels
from kdtool_torch.device import isolated_rng
from kdtool_torch.head import HeadWork, SequenceHead, head_loss, sequence_head
from kdtool_torch.inputs import MicroBatch, select_signal
from kdtool_torch.numerics import require_finite
from kdtool_torch.stats import (
    StepStats,
    objective_of_token_loss,
    raise_for_token_losses,
    raise_if_student_diverged,
    raise_nonfinite_loss,
    sampled_overlaps,
    squared_norm_of_sequence_loss,
    squared_norms_at_embedding,
    squared_norms_at_last,
)
from kdtool_torch.terms import BoundTerm, Chunk, ChunkLoss, bind_terms, learns_on_policy

NOTHING_INSIDE = kdtool.SignalRequest()


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


class DistillationModule(nn.Module):
    """Student and loss modules; `forward` returns `{"loss": …}`."""

    def __init__(
        self,
        run: kdtool.RunInfo,
        student: kdtool.LanguageModel,
        terms: Sequence[BoundTerm],
        loss: ChunkLoss,
        loss_modules: Mapping[str, nn.Module],
        sizes: Sizes,
        wanted: kdtool.SignalRequest = NOTHING_INSIDE,
    ) -> None:
        super().__init__()
        self.student = student.model
        self.loss_modules = nn.ModuleDict({module_key(name): module for name, module in loss_modules.items()})
        self.language_model = student
        self.run = run
        self.terms = tuple(terms)
        self.chunk_loss = loss
        self.sizes = sizes
        self.wanted = wanted
        self.forward_passes = max((bound.term.forward_passes for bound in terms), default=1)
        self._token = [index for index, bound in enumerate(terms) if bound.per_token]
        self._token_index = torch.tensor(self._token, dtype=torch.int64, device=next(student.model.parameters()).device)
        self._sequence = [index for index, bound in enumerate(terms) if not bound.per_token]
        inside = any(bound.term.layers or bound.term.routing for bound in terms)
        self._embedding = next((m for m in self.student.modules() if inside and isinstance(m, nn.Embedding)), None)
        self._buffers_of_logits: dict[Any, Tensor] = {}
        device = next(self.student.parameters()).device
        self.progress, self.step = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        self.factors = torch.ones(len(terms), device=device)
        self._learns_on_policy = torch.tensor([float(learns_on_policy(bound.term)) for bound in terms], device=device)
        self.on_policy = False
        """True if the student wrote the step's text, from which some terms learn nothing. Set by the loop, as the next."""
        self.mean_weights = torch.ones(len(self._token), device=device)
        """Each token loss's mean token weight."""
        self.measures_norms = self.measures_overlap = False
        self.checks_at_once = False
        """Raise in `forward` for values that are not finite. A GPU would wait for each check, so the loop reads `stats` when
        the step is over, and only then computes it again with checks."""
        self.stats = self._empty_stats()

    @classmethod
    def bind(
        cls,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        student: kdtool.LanguageModel,
        signals: Mapping[str, kdtool.Signal],
        loss_modules: Mapping[str, nn.Module],
        sizes: Sizes,
    ) -> DistillationModule:
        """Return the module of a phase; `signals` are those of a first batch. Raises as `bind_terms`."""
        terms = bind_terms(run, phase, signals)
        loss = ChunkLoss([bound for bound in terms if bound.per_token], [*run.bound("kdtool_token_weight").values()])
        return cls(run, student, terms, loss, loss_modules, sizes, phase.student_request)

    def begin_step(self, step: int, progress: float, factors: Sequence[float], measure_norms: bool) -> None:
        """Prepare for the step with this number, from 1. `factors` are weight · scale · balance of each term."""
        self.step.fill_(step)
        self.progress.fill_(progress)
        self.factors.copy_(torch.tensor(factors, dtype=torch.float32), non_blocking=True)
        self.factors *= self._learning()
        self.measures_norms = measure_norms
        self.stats = self._empty_stats()

    def forward(
        self,
        micro_batch: MicroBatch,
        num_items_in_batch: float,
        *,
        only: Callable[[HeadWork], Tensor] | None = None,
        term: int | None = None,
    ) -> dict[str, Tensor]:
        """Return this micro-batch's share of the step's loss, or with `only` its result for the token losses' work.

        With `term` return an objective with only that term's gradient, undivided, and the term's `divisor`.

        Args:
            micro_batch: B rows; N of their positions have a label.
            num_items_in_batch: positions in the loss mask of the whole step, over all ranks and micro-batches.
            only: called in place of the losses.
            term: number of the only term to compute.
        """
        self.stats.tokens = torch.full((), max(1.0, num_items_in_batch), device=self.progress.device)
        self.stats.seen = self._learning() * num_items_in_batch
        for teacher, signal in micro_batch.signals.items() if self.checks_at_once else ():
            require_finite(signal, teacher)
        outputs = self.run_student(micro_batch.batch)
        if only is not None:
            return {"only": only(self.head_work(micro_batch, outputs))}
        if term is not None:
            return self._objective(term, micro_batch, outputs)
        loss = self._token_losses(micro_batch, outputs)
        head = self.sequence_head()
        for index in self._sequence:
            view = self.view(self.terms[index], micro_batch, outputs, head)
            loss = loss + self._sequence_loss(index, view)
        return {"loss": loss}

    def measure_norms(self, micro_batch: MicroBatch, num_items_in_batch: float) -> None:
        """Measure each term's gradient at the embedding's output if the step asks for it and a term compares layers.

        Called before each micro-batch's `forward`, which measures it at the final states if none does. Arguments are the
        same.
        """
        if self.measures_norms and self._embedding is not None:
            self.stats.squared_norms += squared_norms_at_embedding(
                self, len(self.terms), self._embedding, micro_batch, num_items_in_batch
            )

    def run_student(self, batch: kdtool.Batch) -> tuple[kdtool.ModelOutputs, ...]:
        """Run the backbone once, or twice if a loss asks for two passes; each draws its own dropout."""
        return tuple(self.language_model.backbone(batch, self.wanted) for _ in range(self.forward_passes))

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
        self.add_weights(work.totals[1])
        if self.measures_norms and self._embedding is None:
            self.stats.squared_norms[self._token_index] += squared_norms_at_last(work, self.stats.tokens)
        if self.measures_overlap:
            self.stats.overlap += sampled_overlaps(work)
        return loss

    def _learning(self) -> Tensor:
        """Return 1 for each term that learns from the step's text, else 0, [terms]."""
        return self._learns_on_policy if self.on_policy else torch.ones_like(self.factors)

    def add_weights(self, sums: Tensor) -> None:
        """Add sums of token weights, [token losses], of the terms that learn from them."""
        self.stats.weights[self._token_index] += sums * self._learning()[self._token_index]

    def _zero_of_all(self, outputs: kdtool.ModelOutputs) -> Tensor:
        """Return 0 with a gradient of 0 for backbone and head, which no token loss uses: DDP waits for all gradients."""
        head = self.language_model.head
        unused = [outputs.last.float().sum(), head.weight.sum(), *([] if head.bias is None else [head.bias.sum()])]
        return torch.stack([each * 0 for each in unused]).sum()

    def _objective(
        self, term: int, micro_batch: MicroBatch, outputs: tuple[kdtool.ModelOutputs, ...]
    ) -> dict[str, Tensor]:
        if term in self._token:
            loss = objective_of_token_loss(self.head_work(micro_batch, outputs), self._token.index(term))
            return {"loss": loss, "divisor": self.stats.tokens}
        view = self.view(self.terms[term], micro_batch, outputs, self.sequence_head().frozen())
        values, divisor = self._sequence_values(term, view)
        return {"loss": values.sum() * self.factors[term], "divisor": divisor}

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
        if self.measures_norms and self._embedding is None:

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
