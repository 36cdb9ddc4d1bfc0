"""Record all rows of a cache, shard by shard. Called by caches, once for each set of signals, on every rank.

Rank r of w records the shards r, r + w, … Ranks coordinate only through files: rank 0 writes the tensors that are stored
once for all rows, the others wait for it, and rank 0 is the last to finish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Protocol

import kdtool

from kdtool_torch._batches import NO_LABEL, collate
from kdtool_torch._device import pick_device
from kdtool_torch._moved import move
from kdtool_torch._shard_files import ONCE, load_manifest, save, shard_name
from kdtool_torch._writer import Encode, ShardWriter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Recording", "record_rows"]

_GLIMPSE = 0.1
"""Seconds between two checks for the files of another rank."""
_BETWEEN_REPORTS = 0.2
"""Seconds between two reports of progress."""


class Recording(Protocol):
    """Defines what a cache keeps of a teacher's signals."""

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return what to store once for all rows, given the first signal: tensors, and JSON-serialisable facts."""

    def select(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Encode:
        """Select what to store of a batch on the device of its signal, and return a function that encodes its rows.

        The function is called later, in another thread, while the teacher computes its next signal: let it use no buffers
        that the teacher reuses. It returns for each row the same names, and tensors in main memory of any length in
        dimension 0.

        Args:
            batch: in main memory.
            signal: on the device of the teacher's batch.
        """


def record_rows(
    run: kdtool.RunInfo,
    rows: kdtool.RowSource,
    source: kdtool.SignalSource,
    folder: Path,
    recording: Recording,
    rows_per_shard: int,
    batch: int,
) -> int:
    """Record the rows of every incomplete shard, `batch` rows at a time, and return the number of all rows.

    Batches and signals are on the training device (`pick_device`); a thread encodes and writes them meanwhile. Each rank of
    the run records its share, and rank 0 returns when all shards are complete. The files do not depend on the number of
    ranks.

    Raises:
        kdtool.StorageError: the disk is full or not writable.
        kdtool.PluginError: the signals come from a different teacher than those already recorded.
    """
    with ShardWriter(folder) as writer:
        recorder = _Recorder(run, rows, source, folder, recording, rows_per_shard, writer)
        for index in recorder.numbers[run.rank :: run.world]:
            recorder.record(index, batch)
    if run.rank == 0:
        recorder.wait_for_others()
    return len(rows)


class _Recorder:
    """Hands batches to the writer of shards; rank 0 also writes the tensors that are stored once, with its first shard."""

    def __init__(
        self,
        run: kdtool.RunInfo,
        rows: kdtool.RowSource,
        source: kdtool.SignalSource,
        folder: Path,
        recording: Recording,
        rows_per_shard: int,
        writer: ShardWriter,
    ) -> None:
        self.numbers = range(-(-len(rows) // rows_per_shard))
        self._run, self._rows, self._source = run, rows, source
        self._folder, self._recording, self._rows_per_shard = folder, recording, rows_per_shard
        self._writer = writer
        self._recorded: set[int] = set()
        """Shards that the writer gets from this process."""
        self._complete: set[int] = set()
        """Shards that were complete before, or that another rank wrote."""
        self._reported = float("-inf")
        once = load_manifest(folder, ONCE)
        self._fingerprint: str | None = once["fingerprint"] if once else None

    def record(self, index: int, batch: int) -> None:
        """Record one shard, unless it is complete."""
        rows = [self._rows[i] for i in self._span(index)]
        if self._run.rank == 0:
            self._require_folder()
        # Rank 0 renames the folder when everything is complete.
        # A complete shard is useless without the file stored once for all: that one is damaged or gone.
        there = self._has(index, rows) and (self._fingerprint is not None or self._run.rank > 0)
        if there or (self._run.rank > 0 and not self._folder.exists()):
            self._report()
            return
        self._recorded.add(index)
        for host_batch, signal in self._signals(rows, batch):
            labels = (host_batch.labels != NO_LABEL).sum(1).tolist()
            self._writer.add(labels, self._recording.select(host_batch, signal))
            self._report()
        self._writer.end_shard(index, rows)

    def wait_for_others(self) -> None:
        """Return when every shard is complete; no rank writes after that. The writer has ended."""
        self._complete |= self._recorded
        for index in self.numbers:
            while index not in self._complete and not self._has(index, [self._rows[i] for i in self._span(index)]):
                self._require_folder()
                self._report()
                sleep(_GLIMPSE)
        self._report(at_once=True)

    def _require_folder(self) -> None:
        if not self._folder.exists():
            raise kdtool.StorageError(f"{self._folder}, which held the signals recorded so far, is gone: run again")

    def _span(self, index: int) -> range:
        start = index * self._rows_per_shard
        return range(start, min(start + self._rows_per_shard, len(self._rows)))

    def _has(self, index: int, rows: list[kdtool.Row]) -> bool:
        """Return whether a shard is complete and contains these rows."""
        manifest = load_manifest(self._folder, shard_name(index))
        if manifest is None or manifest["rows"] != [row.key for row in rows]:
            return False
        self._complete.add(index)
        return True

    def _report(self, *, at_once: bool = False) -> None:
        """Report progress of all ranks, at most a few times per second: rows written here, and other complete shards."""
        if self._run.rank == 0 and (at_once or monotonic() - self._reported > _BETWEEN_REPORTS):
            self._reported = monotonic()
            there = self._complete
            if self._run.world > 1:  # shards of other ranks are counted by name; wait_for_others reads them
                there = there | {i for i in self.numbers if (self._folder / f"{shard_name(i)}.json").exists()}
            others = sum(len(self._span(i)) for i in there - self._recorded)
            self._run.hook.kdtool_progress(self._run, self._writer.rows + others)

    def _signals(self, rows: list[kdtool.Row], size: int) -> Iterator[tuple[kdtool.Batch, kdtool.Signal]]:
        """Yield batches of `size` rows in main memory, each with the teacher's signal."""
        device = pick_device()  # as in training: a teacher computes on the batch's device
        for start in range(0, len(rows), size):
            batch = collate(rows[start : start + size])
            signal = self._source.signal(move(batch, device))
            known = self._fingerprint or self._first(signal)
            if signal.fingerprint != known:
                raise kdtool.PluginError(
                    f"the signals in {self._folder} come from teacher {known}, but this teacher is {signal.fingerprint}; "
                    "include in its identity everything that changes its signals"
                )
            yield batch, signal

    def _first(self, signal: kdtool.Signal) -> str:
        """Return the fingerprint of the teacher recorded first; rank 0 records it here."""
        if self._run.rank == 0:
            tensors, facts = self._recording.header(signal)
            save(self._folder, ONCE, tensors, {"fingerprint": signal.fingerprint, **facts})
        while (once := load_manifest(self._folder, ONCE)) is None:
            sleep(_GLIMPSE)
        self._fingerprint = once["fingerprint"]
        return self._fingerprint
