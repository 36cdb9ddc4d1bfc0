"""The terms of a phase on some of its rows, for trainers that keep all logits of a micro-batch in memory.

The trainer `standard` has its own objective, which never has all logits (`kdtool_torch.objective`); gradients agree up
to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch.batch import WeightMeans, collate, label_index, loss_mask, select, select_at_labels
from kdtool_torch.device import sum_over_ranks
from kdtool_torch.numerics import unrounded_logits
from kdtool_torch.sampling import isolated_rng

if TYPE_CHECKING:
    from torch import Tensor, nn


class PhaseTerms:
    """The losses of a phase with their weights, teachers, weightings and trained modules, evaluated on rows.

    Gradients are those of the trainer `standard`, up to rounding. With several processes each evaluates its own rows of a
    step; add up the gradients of all. DDP takes their mean, so multiply each loss by `run.world`.

    Train `modules` with the student. Store `reports`, `token_weights` and `states` in checkpoints: the last step's figures
    by term, which weightings of losses use to compute the next weights; the state of `WeightMeans`; and what weightings of
    losses keep from step to step, as JSON can express it. A term without tokens is missing in the reports.

    Args:
        run: of the trainer.
        phase: the phase to train.
        student: its backbone runs once per micro-batch, with gradient.

    Raises:
        kdtool.UsageError: the phase has no rows, a loss with two passes, or one that learns from several teachers.
    """

    modules: nn.ModuleDict
    reports: dict[str, kdtool.TermReport]
    states: dict[str, dict[str, Any]]
    token_weights: Mapping[str, Sequence[float]] | None

    def __init__(self, run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel) -> None:
        from torch import nn

        if not len(phase.rows):
            raise kdtool.UsageError(f"phase {phase.name!r} has no rows: give it a corpus with more text")
        for term in phase.terms:
            if term.forward_passes > 1:
                raise kdtool.UsageError(f"{term.name} needs two passes of the student: use the trainer `standard`")
            if term.mixture:
                raise kdtool.UsageError(f"{term.name} learns from several teachers: write `teacher: NAME`")
        self._run, self._phase, self._student = run, phase, student
        modules = {_key(term): self._module(term) for term in phase.terms}
        self.modules = nn.ModuleDict({name: module for name, module in modules.items() if module is not None})
        self.reports = {}
        self.states = {}
        self.token_weights = None

    def loss(self, rows: Sequence[int], step: int) -> tuple[Tensor, int]:
        """Return the loss of a step that is one micro-batch, and its number of tokens: see `losses`."""
        ((loss, tokens),) = self.losses([rows], step)
        return loss, tokens

    def losses(self, micro_batches: Sequence[Sequence[int]], step: int) -> Iterator[tuple[Tensor, int]]:
        """Yield each micro-batch's share of the step's loss, with gradient, and the number of tokens learned from.

        Call `backward` on each loss before the next is computed. The gradients add up to those of the whole step, however it
        is divided. `reports` and `token_weights` are those of the step once all losses are taken. All processes call it
        for the same steps, and take all losses.

        Args:
            micro_batches: numbers of the rows of each, of this process.
            step: from 1.

        Raises:
            kdtool.PluginError: a loss returns something else than one finite float32 value for each position.
        """
        import torch

        device = self._student.head.weight.device
        parts = [MicroBatch.collate(self._phase, rows, device) for rows in micro_batches]
        counts = [sum(part.tokens for part in parts), sum(map(len, micro_batches))]
        tokens, rows = map(int, sum_over_ranks(counts, self._run.world))
        progress = (step - 1) / max(1, self._phase.steps - 1)
        first = self.token_weights is None and bool(self._run.implementing("kdtool_token_weight"))
        if first:  # its own weights are all that is known of their mean
            with torch.no_grad(), isolated_rng():
                passes = (self._forward(part, step, progress) for part in parts)
                self._add_weights([self._token_weights(forward) for forward in passes], tokens)
        weights, values, seen = (
            self._weights(step, progress),
            [0.0] * len(self._phase.terms),
            [0] * len(self._phase.terms),
        )
        weighed: list[Tensor | None] = []
        for part in parts:
            forward = self._forward(part, step, progress)
            weighed.append(self._token_weights(forward))
            total = forward.outputs.last.float().sum() * 0
            for number, term in enumerate(self._phase.terms):
                value, seen[number] = self._mean(term, forward, weighed[-1], rows, tokens)
                total = total + weights[term.name] * value
                values[number] += value.item()
            yield total, part.tokens
        values = sum_over_ranks(values, self._run.world)
        self.reports = {
            term.name: kdtool.TermReport(value, weights[term.name])
            for term, value, count in zip(self._phase.terms, values, seen, strict=True)
            if count
        }
        if not first:
            self._add_weights(weighed, tokens)

    def _forward(self, rows: MicroBatch, step: int, progress: float) -> Forward:
        return Forward.run(self._phase, self._student, rows, step, progress)

    def _weights(self, step: int, progress: float) -> dict[str, float]:
        """Return each term's weight at a step: by its schedule, times the factors of weightings of losses."""
        factors = self._balance(step)
        return {
            term.name: term.weight_at(progress) * prod(factor.get(term.name, 1.0) for factor in factors)
            for term in self._phase.terms
        }

    def _balance(self, step: int) -> list[Mapping[str, float]]:
        """Return the factors of terms, by weighting."""
        return [
            self._run.component(name, kdtool.Weighting).kdtool_balance(
                self.reports, step, self.states.setdefault(name, {})
            )
            or {}
            for name in (self._run.implementing("kdtool_balance") if self.reports else ())
        ]

    def _module(self, term: kdtool.LossTerm) -> nn.Module | None:
        if term.teacher is None or term.name not in self._run.implementing("kdtool_modules"):
            return None
        teacher = self._run.component(term.teacher, kdtool.Teacher).kdtool_describe(self._run)
        loss = self._run.component(term.name, kdtool.SequenceLoss)
        return loss.kdtool_modules(self._student.facts, teacher) if teacher else None

    def _mean(
        self, term: kdtool.LossTerm, forward: Forward, weights: Tensor | None, rows: int, tokens: int
    ) -> tuple[Tensor, int]:
        """Return a micro-batch's share of the term's mean over the step's `rows` or `tokens`, and which of them it is."""
        if self._is_token_loss(term):
            values, count = self._token_values(term, forward.chunk(term)), tokens
            values = values if weights is None else values * weights
        else:
            module = dict(self.modules.items()).get(_key(term))
            loss = self._run.component(term.name, kdtool.SequenceLoss).kdtool_sequence_loss(forward.view(term, module))
            per_token = isinstance(loss, kdtool.PerToken)
            values, count = (select(loss.values, forward.rows.loss_mask), tokens) if per_token else (loss.values, rows)
        divisor = max(1, count) * WeightMeans(self.token_weights or {}).of(term.name)
        return values.float().sum() / divisor * term.scale, count

    def _token_values(self, term: kdtool.LossTerm, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the loss at each imitated position."""
        values: Any = self._run.component(term.name, kdtool.TokenLoss).kdtool_token_loss(chunk)
        form = str(getattr(values, "dtype", None)), getattr(values, "shape", None)
        if form != ("torch.float32", chunk.labels.shape) or not values.isfinite().all():
            owner = self._run.hook.owner(term.name) or term.name
            raise kdtool.PluginError(
                f"{owner} must return {len(chunk.labels)} finite float32 values, one for each position"
            )
        result: Tensor = values
        return result

    def _token_weights(self, forward: Forward) -> Tensor | None:
        """Return the weights of the imitated positions, None without a weighting of tokens.

        Weightings see the chunk of the first term with a teacher, without gradient and at temperature 1.
        """
        terms = [term for term in self._phase.terms if self._is_token_loss(term)]
        weightings = list(self._run.bound("kdtool_token_weight").values())
        if not terms or not weightings:
            return None
        chunk = forward.chunk(next((term for term in terms if term.teacher), terms[0]))
        chunk = replace(chunk, student_logits=chunk.student_logits.detach(), temperature=1.0)
        weights: Tensor = prod(weigh(chunk).detach() for weigh in weightings)
        return weights

    def _add_weights(self, weights: Sequence[Tensor | None], tokens: int) -> None:
        """Add a step's token weights to their running mean, for each term that they weigh."""
        names = [term.name for term in self._phase.terms if self._is_token_loss(term)]
        weighed = [weight for weight in weights if weight is not None]
        if weighed:
            (total,) = sum_over_ranks([sum(weight.sum().item() for weight in weighed)], self._run.world)
            means = WeightMeans(self.token_weights or {})
            means.add(dict.fromkeys(names, total), dict.fromkeys(names, float(tokens)))
            self.token_weights = means.state

    def _is_token_loss(self, term: kdtool.LossTerm) -> bool:
        return term.name in self._run.implementing("kdtool_token_loss")


def _key(term: kdtool.LossTerm) -> str:
    """Return the term's name as torch allows it for a module."""
    return term.name.replace(".", "/")


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows of a phase as tensors, in the student's tokens and in those of teachers with another tokenizer."""

    batch: kdtool.Batch
    teacher_batches: dict[str, kdtool.Batch]

    @classmethod
    def collate(cls, phase: kdtool.Phase, rows: Sequence[int], device: Any) -> MicroBatch:
        """Make tensors of the phase's rows with these numbers."""
        teachers = {
            name: collate([teacher_rows[row] for row in rows], device)
            for name, teacher_rows in phase.teacher_rows.items()
        }
        return cls(collate([phase.rows[row] for row in rows], device), teachers)

    @property
    def loss_mask(self) -> Tensor | None:
        """Numbers of those of the N labelled positions that token losses see; None if they see all."""
        return loss_mask(self.batch)

    @property
    def tokens(self) -> int:
        """Number of positions that token losses see."""
        seen = label_index(self.batch) if self.loss_mask is None else self.loss_mask
        return len(seen)


@dataclass(frozen=True, eq=False)
class Forward:
    """The student's outputs and its teachers' signals for a micro-batch, at one step of a phase."""

    rows: MicroBatch
    outputs: kdtool.ModelOutputs
    signals: dict[str, kdtool.Signal]
    head: kdtool.Head
    logits: Tensor
    """The student's, [N, V]."""
    step: Tensor
    progress: Tensor

    @classmethod
    def run(
        cls, phase: kdtool.Phase, student: kdtool.LanguageModel, rows: MicroBatch, step: int, progress: float
    ) -> Forward:
        """Run the student's backbone and head, and request the teachers' signals."""
        import torch

        signals = {
            name: source.signal(rows.teacher_batches.get(name, rows.batch)) for name, source in phase.signals.items()
        }
        outputs, head = student.backbone(rows.batch, phase.student_request), student.head
        device = head.weight.device
        now = torch.tensor(step, device=device), torch.tensor(progress, device=device)
        return cls(rows, outputs, signals, head, head.logits(outputs.last), *now)

    def view(self, term: kdtool.LossTerm, module: nn.Module | None) -> kdtool.StepView:
        """Return the input of a sequence loss."""
        teacher, head = term.teacher or "", self.head
        if term.shared is not None:
            head = replace(head, vocabulary=min(term.shared, head.vocabulary))
        return kdtool.StepView(
            self.rows.batch, self.outputs, self.signals.get(teacher), self.progress, self.step,
            self.rows.teacher_batches.get(teacher), head, layers=term.layers, module=module,
        )  # fmt: skip

    def chunk(self, term: kdtool.LossTerm) -> kdtool.TokenChunk:
        """Return the input of a token loss: all imitated positions as one chunk."""
        batch, signal, mask = self.rows.batch, self.signals.get(term.teacher or ""), self.rows.loss_mask
        teacher: kdtool.DenseTokens | kdtool.SparseTokens | None = None
        if signal and signal.sparse:
            sparse = signal.sparse
            teacher = replace(sparse, ids=select(sparse.ids, mask), weights=select(sparse.weights, mask))
        if signal and signal.lazy:
            teacher = kdtool.DenseTokens(unrounded_logits(signal.lazy.head, select(signal.lazy.hidden, mask)))

        def of(values: Tensor) -> Tensor:
            return select(select_at_labels(values, batch), mask)

        return kdtool.TokenChunk(
            student_logits=select(self.logits, mask)[:, : term.shared],
            labels=of(batch.labels),
            teacher=teacher,
            positions=of(batch.positions),
            temperature=term.temperature,
            progress=self.progress,
            step=self.step,
            columns={name: of(column) for name, column in batch.columns.items()},
        )
