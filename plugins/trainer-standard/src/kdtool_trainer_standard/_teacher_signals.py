"""Signals of all teachers for a micro-batch: for its rows, or for the same rows in a teacher's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import kdtool
from kdtool_torch import collate

__all__ = ["TeacherSignals"]


class TeacherSignals:
    """Queries every teacher for one micro-batch: `recorded` may run in a thread of its own, `live` runs models."""

    def __init__(self, phase: kdtool.Phase) -> None:
        self._rows = phase.teacher_rows
        self._numbers: dict[str, dict[str, int]] = {}
        recorded = {name for name, source in phase.signals.items() if getattr(source, "recorded", False)}
        self._recorded = {name: source for name, source in phase.signals.items() if name in recorded}
        self._live = {name: source for name, source in phase.signals.items() if name not in recorded}

    def __call__(self, batch: kdtool.Batch) -> tuple[dict[str, kdtool.Batch], dict[str, kdtool.Signal]]:
        """Return the batches of teachers with their own rows, and the signals of all teachers."""
        batches, recorded = self.recorded(batch)
        return batches, {**recorded, **self.live(batch, batches)}

    def recorded(self, batch: kdtool.Batch) -> tuple[dict[str, kdtool.Batch], dict[str, kdtool.Signal]]:
        """Return the batches of teachers with their own rows, and the signals that are read from caches."""
        batches = {name: self._batch(name, batch) for name in self._rows}
        return batches, _signals(self._recorded, batch, batches)

    def live(self, batch: kdtool.Batch, batches: Mapping[str, kdtool.Batch]) -> dict[str, kdtool.Signal]:
        """Return the signals of teachers that run with the student; `batches` are those of teachers with their own rows."""
        return _signals(self._live, batch, batches)

    def _batch(self, teacher: str, batch: kdtool.Batch) -> kdtool.Batch:
        rows, numbers = self._rows[teacher], self._row_numbers(teacher)
        teacher_batch = collate([rows[numbers[key]] for key in batch.row_keys], batch.input_ids.device)
        return replace(teacher_batch, turns=batch.turns)

    def _row_numbers(self, teacher: str) -> Mapping[str, int]:
        if teacher not in self._numbers:
            rows = self._rows[teacher]
            self._numbers[teacher] = {rows[number].key: number for number in range(len(rows))}
        return self._numbers[teacher]


def _signals(
    sources: Mapping[str, kdtool.SignalSource], batch: kdtool.Batch, batches: Mapping[str, kdtool.Batch]
) -> dict[str, kdtool.Signal]:
    return {name: source.signal(batches.get(name, batch)) for name, source in sources.items()}
