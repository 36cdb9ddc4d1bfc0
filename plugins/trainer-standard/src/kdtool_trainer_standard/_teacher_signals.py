"""Signals of all teachers for a micro-batch: for its rows, or for the same rows in a teacher's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import kdtool
import torch
from kdtool_torch import collate, eval_mode
from torch import Tensor

from kdtool_trainer_standard._machine import autocast_to
from kdtool_trainer_standard._micro_batch import MicroBatch, plain_tensors
from kdtool_trainer_standard._projection import Projection

__all__ = ["TeacherSignals"]


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
