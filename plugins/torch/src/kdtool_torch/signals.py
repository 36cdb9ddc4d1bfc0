"""Micro-batches with the signals of all teachers, for their rows or for the same rows in a teacher's own tokenizer.

Some rows are selected by the self-tests, which look at one row, and by the measurement of gradient norms, which looks
at a few. Everything that depends on values is computed in main memory: no GPU waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import kdtool
import torch
from torch import Tensor

from kdtool_torch.batch import NO_LABEL, batch_rows, collate, compute_on_host, loss_labels, map_tensors, move
from kdtool_torch.head import Projection
from kdtool_torch.model import eval_mode
from kdtool_torch.numerics import autocast_to


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows on the device, each teacher's signal, and the same rows in the tokenizers of teachers that read no other."""

    batch: kdtool.Batch
    signals: Mapping[str, kdtool.Signal] = field(default_factory=dict)
    teacher_batches: Mapping[str, kdtool.Batch] = field(default_factory=dict)


def imitated_by_row(batch: kdtool.Batch) -> tuple[int, ...]:
    """Return how many positions of each row are in the loss mask."""
    rejected = batch.columns.get("rejected")
    return compute_on_host(_count, batch.labels, *([] if rejected is None else [rejected]))


def select_rows(rows: Sequence[int], whole: MicroBatch) -> MicroBatch:
    """Return only these rows, in ascending order, with their signals."""
    others = whole.teacher_batches
    return MicroBatch(
        batch_rows(whole.batch, rows),
        {name: _rows_of_signal(each, others.get(name, whole.batch), rows) for name, each in whole.signals.items()},
        {name: batch_rows(batch, rows) for name, batch in others.items()},
    )


def select_signal(signal: kdtool.Signal, where: slice | Tensor) -> kdtool.Signal:
    """Return the signal with only these positions in its tensors over N positions."""

    def of(value: Any) -> Any:
        names = (name for name in ("hidden", "ids", "weights", "log_probabilities") if hasattr(value, name))
        return value and replace(value, **{name: getattr(value, name)[where] for name in names})

    hidden = {layer: states[where] for layer, states in signal.hidden.items()}
    return replace(signal, lazy=of(signal.lazy), sparse=of(signal.sparse), chosen=of(signal.chosen), hidden=hidden)


def plain_tensors(signal: kdtool.Signal) -> kdtool.Signal:
    """Return the signal without inference tensors, which autograd refuses to keep for backward."""
    without_lazy = map_tensors(_plain, replace(signal, lazy=None))
    return replace(without_lazy, lazy=signal.lazy)  # lazy states are projected by us, which gives ordinary tensors


def _rows_of_signal(signal: kdtool.Signal, batch: kdtool.Batch, rows: Sequence[int]) -> kdtool.Signal:
    counts, device = compute_on_host(_count, batch.labels), batch.labels.device
    starts = [sum(counts[:row]) for row in rows]
    numbers = [number for row, start in zip(rows, starts, strict=True) for number in range(start, start + counts[row])]
    positions = move(torch.tensor(numbers, dtype=torch.int64), device)
    only = move(torch.tensor(rows), device)
    return replace(
        select_signal(signal, positions),
        attentions={layer: maps[only] for layer, maps in signal.attentions.items()},
        projections={
            layer: kdtool.Projections(*(tensor[only] for tensor in tensors))
            for layer, tensors in signal.projections.items()
        },
    )


def _count(labels: Tensor, rejected: Tensor | None = None) -> tuple[int, ...]:
    learned = labels if rejected is None else loss_labels(labels, {"rejected": rejected})
    return tuple((learned != NO_LABEL).sum(1).tolist())


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


class TeacherSignals:
    """Queries every teacher for one micro-batch: `recall` may run in a background thread, `query_live` runs models.

    A teacher chooses its own precision. One that is the initial student computes in `dtype`, that of the student: with
    equal weights, their likelihoods are equal too, and the margin of DPO is 0 at the first step.

    A teacher that is asked about tokens of the student's choice gets the likeliest ones of `student`, which reads the batch
    once more for that, without dropout; `chunk` positions have logits at once.
    """

    def __init__(
        self,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        student: kdtool.LanguageModel,
        dtype: torch.dtype,
        chunk: int = 512,
    ) -> None:
        self._student, self._dtype, self._chunk = student, dtype, chunk
        self._tokens = {name: _student_tokens(run, phase, name) for name in phase.signals}
        self._shared = min((term.shared for term in phase.terms if term.shared is not None), default=None)
        self._initial_students = frozenset(
            name
            for name in phase.signals.keys() & run.implementing("kdtool_signal")
            if run.component(name, kdtool.Teacher).initial_student is not None
        )
        self._rows = phase.teacher_rows
        self._numbers: dict[str, dict[str, int]] = {}
        self._recorded = {name: each for name, each in phase.signals.items() if getattr(each, "recorded", False)}
        self._live = {name: each for name, each in phase.signals.items() if name not in self._recorded}

    def __call__(self, batch: kdtool.Batch) -> MicroBatch:
        """Return the micro-batch with the signals of all teachers."""
        return self.query_live(self.recall(batch))

    def recall(self, batch: kdtool.Batch) -> MicroBatch:
        """Return the micro-batch with the signals that are read from caches."""
        batches = {name: self._batch(name, batch) for name in self._rows}
        recorded = {name: each.signal(batches.get(name, batch)) for name, each in self._recorded.items()}
        return MicroBatch(batch, recorded, batches)

    def query_live(self, micro_batch: MicroBatch) -> MicroBatch:
        """Return the micro-batch with the signals of teachers that run with the student, too."""
        batch, others = micro_batch.batch, micro_batch.teacher_batches
        most = max((self._tokens[name] for name in self._live), default=0)
        likeliest = self._likeliest(batch, most) if most else None
        live = {name: self._ask(name, others.get(name, batch), likeliest) for name in self._live}
        signals = {name: plain_tensors(signal) for name, signal in {**micro_batch.signals, **live}.items()}
        return replace(micro_batch, signals=signals)

    def _ask(self, teacher: str, batch: kdtool.Batch, likeliest: Tensor | None) -> kdtool.Signal:
        if likeliest is not None and (count := self._tokens[teacher]):
            return self._live[teacher].signal(batch, likeliest[:, :count].contiguous())
        if teacher not in self._initial_students or self._dtype == torch.float32:
            return self._live[teacher].signal(batch)
        with autocast_to(self._dtype, batch.input_ids.device):
            signal = self._live[teacher].signal(batch)
        if signal.lazy is None:
            return signal
        head = signal.lazy.head  # the student's is cast once per micro-batch, too
        return replace(signal, lazy=replace(signal.lazy, head=replace(head, weight=head.weight.to(self._dtype))))

    def _likeliest(self, batch: kdtool.Batch, count: int) -> Tensor:
        """Return the student's likeliest tokens at the labels of a batch, likeliest first, [N, count] int32."""
        with eval_mode(self._student.model), autocast_to(self._dtype, batch.input_ids.device):
            states = self._student.backbone(batch, kdtool.SignalRequest()).last
        head, shared = self._student.head, self._shared
        projection = Projection(replace(head, vocabulary=min(head.vocabulary, shared or head.vocabulary)), self._dtype)
        parts = [
            projection.logits(part).topk(min(count, projection.vocabulary)) for part in torch.split(states, self._chunk)
        ]
        return torch.cat([part.indices for part in parts]).int()

    def _batch(self, teacher: str, batch: kdtool.Batch) -> kdtool.Batch:
        rows, numbers = self._rows[teacher], self._row_numbers(teacher)
        teacher_batch = collate([rows[numbers[key]] for key in batch.row_keys], batch.input_ids.device)
        return replace(teacher_batch, turns=batch.turns)

    def _row_numbers(self, teacher: str) -> Mapping[str, int]:
        if teacher not in self._numbers:
            rows = self._rows[teacher]
            self._numbers[teacher] = {rows[number].key: number for number in range(len(rows))}
        return self._numbers[teacher]


def _student_tokens(run: kdtool.RunInfo, phase: kdtool.Phase, teacher: str) -> int:
    """Return how many of the student's likeliest tokens a teacher is asked about at each position; mostly 0."""
    if "chosen" not in phase.signals[teacher].want.kinds:
        return 0
    asking = (term for term in phase.terms if teacher in term.teachers)
    return max(run.component(term.name, kdtool.Loss).student_tokens for term in asking)
