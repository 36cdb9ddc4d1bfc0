"""The cache `states`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_caches._state_targets import RecalledStates

__all__ = ["States"]


class States(kdtool.Cache):
    """Stores the teacher's final states at labelled positions, and those of wanted layers, in the teacher's own precision.

    For data that is seen more than once: 2 bytes · width per token, and the same again for each layer. The teacher runs once
    over all rows and is not needed while training; its head is stored, too.
    """

    offers: frozenset[kdtool.SignalKind] = frozenset({"logits", "hidden"})
    every_rank_records = True
    config: Config

    class Config(kdtool.Config):
        """Settings of `states`."""

        rows_per_shard: int = kdtool.Field(default=64, ge=1, le=65536)
        """Rows per file. A killed recording loses at most one file's rows."""
        batch: int = kdtool.Field(default=8, ge=1, le=4096)
        """Rows that the teacher sees at once while recording."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._recorded: dict[Path, RecalledStates] = {}
        self._lock = Lock()

    def records(self, want: kdtool.SignalRequest, offers: frozenset[kdtool.SignalKind]) -> kdtool.SignalRequest:
        """Ask the teacher for logits and hidden states as they are wanted."""
        return replace(want, kinds=want.kinds & self.offers)

    def kdtool_record(
        self, run: kdtool.RunInfo, rows: kdtool.RowSource, source: kdtool.SignalSource, folder: Path
    ) -> int:
        """Record all rows that are not there yet.

        Raises:
            kdtool.StorageError: the disk is full or cannot be written.
            kdtool.PluginError: the teacher's signals are not what was wanted, or come from another teacher than before.
        """
        from kdtool_torch import record_rows

        from kdtool_caches._state_targets import StateTargets

        kept = StateTargets(source.want)
        return record_rows(run, rows, source, folder, kept, self.config.rows_per_shard, self.config.batch)

    def kdtool_recall(self, batch: kdtool.Batch, want: kdtool.SignalRequest, folder: Path) -> kdtool.Signal:
        """Return the recorded signal, bit for bit, on the batch's device.

        A file's hash is checked when the process opens it for the first time.

        Raises:
            kdtool.StorageError: a row is not there, or a file is damaged.
        """
        from kdtool_caches._state_targets import RecalledStates

        with self._lock:
            if folder not in self._recorded:
                self._recorded[folder] = RecalledStates(folder)
            recorded = self._recorded[folder]
        return recorded.signal(batch, want)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        import torch
        from kdtool_torch import recording_estimates

        def state(facts: kdtool.ModelFacts) -> int:
            return facts.hidden * int(getattr(torch, facts.dtype).itemsize)

        yield from recording_estimates(
            ahead,
            lambda signals, facts: state(facts) * (len(signals.want.layers) + ("logits" in signals.want.kinds)),
            lambda facts: facts.vocabulary * state(facts),
            self.config.rows_per_shard,
            self.config.batch,
        )

    def kdtool_close(self) -> None:
        """Let go of the files."""
        self._recorded.clear()
