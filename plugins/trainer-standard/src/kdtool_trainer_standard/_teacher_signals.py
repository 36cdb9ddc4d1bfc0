"""Signals of all teachers for a micro-batch: for its rows, or for the same rows in a teacher's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import kdtool
import torch
from kdtool_torch import collate

__all__ = ["TeacherSignals"]


class TeacherSignals:
    """Queries every teacher for one micro-batch: `recall` may run in a background thread, `query_live` runs models.

    A teacher chooses its own precision. One that is the initial student computes in `dtype`, that of the student: with
    equal weights, their likelihoods are equal too, and the margin of DPO is 0 at the first step.
    """

    def __init__(self, run: kdtool.RunInfo, phase: kdtool.Phase, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._initial_students = frozenset(
            name
            for name in phase.signals.keys() & run.implementing("kdtool_signal")
            if run.component(name, kdtool.Teacher).initial_student is not None
        )
        self._rows = phase.teacher_rows
        self._numbers: dict[str, dict[str, int]] = {}
        self._recorded = {name: each for name, each in phase.signals.items() if getattr(each, "recorded", False)}
        self._live = {name: each for name, each in phase.signals.items() if name not in self._recorded}

    def __call__(self, batch: kdtool.Batch) -> tuple[dict[str, kdtool.Batch], dict[str, kdtool.Signal]]:
        """Return the batches of teachers with their own rows, and the signals of all teachers."""
        batches, recorded = self.recall(batch)
        return batches, {**recorded, **self.query_live(batch, batches)}

    def recall(self, batch: kdtool.Batch) -> tuple[dict[str, kdtool.Batch], dict[str, kdtool.Signal]]:
        """Return the batches of teachers with their own rows, and the signals that are read from caches."""
        batches = {name: self._batch(name, batch) for name in self._rows}
        return batches, {name: each.signal(batches.get(name, batch)) for name, each in self._recorded.items()}

    def query_live(self, batch: kdtool.Batch, batches: Mapping[str, kdtool.Batch]) -> dict[str, kdtool.Signal]:
        """Return the signals of teachers that run with the student; `batches` are those of teachers with their own rows."""
        return {name: self._ask(name, batches.get(name, batch)) for name in self._live}

    def _ask(self, teacher: str, batch: kdtool.Batch) -> kdtool.Signal:
        if teacher not in self._initial_students or self._dtype == torch.float32:
            return self._live[teacher].signal(batch)
        with torch.autocast(batch.input_ids.device.type, self._dtype):
            signal = self._live[teacher].signal(batch)
        if signal.lazy is None:
            return signal
        head = signal.lazy.head  # the student's is cast once per micro-batch, too
        return replace(signal, lazy=replace(signal.lazy, head=replace(head, weight=head.weight.to(self._dtype))))

    def _batch(self, teacher: str, batch: kdtool.Batch) -> kdtool.Batch:
        rows, numbers = self._rows[teacher], self._row_numbers(teacher)
        teacher_batch = collate([rows[numbers[key]] for key in batch.row_keys], batch.input_ids.device)
        return replace(teacher_batch, turns=batch.turns)

    def _row_numbers(self, teacher: str) -> Mapping[str, int]:
        if teacher not in self._numbers:
            rows = self._rows[teacher]
            self._numbers[teacher] = {rows[number].key: number for number in range(len(rows))}
        return self._numbers[teacher]
