"""The terms of a phase on some of its rows, for trainers that keep all logits of a step in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch._batches import NO_LABEL, collate

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["PhaseTerms"]


class PhaseTerms:
    """The losses of a phase with their weights, teachers, weightings and trained modules, evaluated on rows.

    Train `modules` with the student. Store `reports` and `states` in checkpoints. `reports` holds the last step's figures by
    term, which weightings of losses use to compute the next weights; a term without tokens is missing there. `states` holds
    what these weightings keep from step to step, as JSON can express it.

    Args:
        run: of the trainer.
        phase: the phase to train.
        student: its backbone runs once per step, with gradient.

    Raises:
        kdtool.UsageError: the phase has no rows, a loss with two passes, or one that learns from several teachers.
    """

    modules: nn.ModuleDict
    reports: dict[str, kdtool.TermReport]
    states: dict[str, dict[str, Any]]

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

    def loss(self, rows: Sequence[int], step: int) -> tuple[Tensor, int]:
        """Return the weighted sum of the terms on these rows, with gradient, and the number of tokens learned from.

        Args:
            rows: their numbers.
            step: from 1.

        Raises:
            kdtool.PluginError: a loss returns something else than one finite float32 value for each position.
        """
        import torch

        phase, head = self._phase, self._student.head
        device = head.weight.device
        batch = collate([phase.rows[row] for row in rows], device)
        teacher_batches = {
            name: collate([teacher_rows[row] for row in rows], device)
            for name, teacher_rows in phase.teacher_rows.items()
        }
        signals = {name: source.signal(teacher_batches.get(name, batch)) for name, source in phase.signals.items()}
        outputs = self._student.backbone(batch, phase.student_request)
        logits = head.logits(outputs.last)
        progress, rejected = (step - 1) / max(1, phase.steps - 1), batch.columns.get("rejected")
        # Rejected text is not imitated.
        kept = slice(None) if rejected is None else rejected[batch.labels != NO_LABEL] == 0
        factors = self._balance(step)
        total, self.reports = outputs.last.float().sum() * 0, {}
        for term in phase.terms:
            view = kdtool.StepView(
                batch, outputs, signals.get(term.teacher or ""), torch.tensor(progress, device=device),
                torch.tensor(step, device=device), teacher_batches.get(term.teacher or ""), head,
                layers=term.layers, module=dict(self.modules.items()).get(_key(term)),
            )  # fmt: skip
            weight = term.weight_at(progress) * prod(factor.get(term.name, 1.0) for factor in factors)
            values = self._values(term, view, logits, kept)
            if len(values):
                mean = values.mean() * term.scale
                total = total + weight * mean
                self.reports[term.name] = kdtool.TermReport(mean.item(), weight)
        return total, len(outputs.last[kept])

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

    def _values(self, term: kdtool.LossTerm, view: kdtool.StepView, logits: Tensor, kept: Any) -> Tensor:
        if term.name in self._run.implementing("kdtool_token_loss"):
            return self._token_values(term, _chunk(term, view, logits), kept)
        loss = self._run.component(term.name, kdtool.SequenceLoss).kdtool_sequence_loss(view)
        return loss.values[kept] if isinstance(loss, kdtool.PerToken) else loss.values

    def _token_values(self, term: kdtool.LossTerm, chunk: kdtool.TokenChunk, kept: Any) -> Tensor:
        """Return the loss at each position that is kept, times its token weight."""
        values: Any = self._run.component(term.name, kdtool.TokenLoss).kdtool_token_loss(chunk)
        form = str(getattr(values, "dtype", None)), getattr(values, "shape", None)
        if form != ("torch.float32", chunk.labels.shape) or not values.isfinite().all():
            owner = self._run.hook.owner(term.name) or term.name
            raise kdtool.PluginError(
                f"{owner} must return {len(chunk.labels)} finite float32 values, one for each position"
            )
        weights = values.new_ones(values.shape)
        for weigh in self._run.bound("kdtool_token_weight").values():
            weights = weights * weigh(chunk)
        weighed: Tensor = (values * weights)[kept] / weights[kept].mean().clamp(min=1e-9)  # a loss weighs as before
        return weighed


def _key(term: kdtool.LossTerm) -> str:
    """Return the term's name as torch allows it for a module."""
    return term.name.replace(".", "/")


def _chunk(term: kdtool.LossTerm, view: kdtool.StepView, logits: Tensor) -> kdtool.TokenChunk:
    """Return all labelled positions as one chunk."""
    batch, signal = view.batch, view.teacher
    teacher: kdtool.DenseTokens | kdtool.SparseTokens | None = signal.sparse if signal else None
    if signal and signal.lazy:
        teacher = kdtool.DenseTokens(signal.lazy.head.logits(signal.lazy.hidden).detach())
    labelled = batch.labels != NO_LABEL
    return kdtool.TokenChunk(
        student_logits=logits[:, : term.shared],
        labels=batch.labels[labelled],
        teacher=teacher,
        positions=batch.positions[labelled],
        temperature=term.temperature,
        progress=view.progress,
        step=view.step,
        columns={name: column[labelled] for name, column in batch.columns.items()},
    )
