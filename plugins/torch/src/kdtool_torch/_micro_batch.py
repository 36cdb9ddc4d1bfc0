"""A micro-batch of a phase: its tensors, the student's outputs for it, and the inputs of losses and weightings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch._batches import collate
from kdtool_torch._half_products import unrounded_logits
from kdtool_torch._loss_mask import loss_mask, select
from kdtool_torch._on_host import label_index, select_at_labels

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Forward", "MicroBatch"]


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
