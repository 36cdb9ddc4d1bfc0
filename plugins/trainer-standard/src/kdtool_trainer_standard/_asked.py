"""Teachers asked about a micro-batch: about its own rows, or about the same ones in a teacher's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import kdtool
from kdtool_rows import collate

__all__ = ["Asked"]


class Asked:
    """Asks every teacher of a phase."""

    def __init__(self, phase: kdtool.Phase) -> None:
        self._signals = phase.signals
        self._rows = phase.teacher_rows
        self._numbers: dict[str, dict[str, int]] = {}

    def __call__(self, batch: kdtool.Batch) -> tuple[dict[str, kdtool.Batch], dict[str, kdtool.Signal]]:
        """Return the batches of teachers that have rows of their own, and the signals of all."""
        told = {name: self._batch(name, batch) for name in self._rows}
        return told, {name: source.signal(told.get(name, batch)) for name, source in self._signals.items()}

    def _batch(self, teacher: str, batch: kdtool.Batch) -> kdtool.Batch:
        rows, numbers = self._rows[teacher], self._numbered(teacher)
        found = collate([rows[numbers[key]] for key in batch.row_keys], batch.input_ids.device)
        return replace(found, turns=batch.turns)

    def _numbered(self, teacher: str) -> Mapping[str, int]:
        if teacher not in self._numbers:
            rows = self._rows[teacher]
            self._numbers[teacher] = {rows[number].key: number for number in range(len(rows))}
        return self._numbers[teacher]
