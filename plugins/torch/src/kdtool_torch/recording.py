"""Record all rows of a cache, shard by shard; caches call it once for each set of signals, on every rank.

Rank r of w records the shards r, r + w, … Ranks coordinate only through files: rank 0 writes the tensors that are
stored once for all rows, the others wait for it, and rank 0 is the last to finish.

A thread encodes and writes shards while the teacher computes the next signals, which is never more than a few batches
ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import kdtool

from kdtool_torch.batch import NO_LABEL, collate, move
from kdtool_torch.device import pick_device
from kdtool_torch.numerics import is_finite, not_finite
from kdtool_torch.shards import ONCE, load_manifest, save, shard_name

if TYPE_CHECKING:
    from torch import Tensor

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
            finite, encode = is_finite(signal), self._recording.select(host_batch, signal)
            self._writer.add(labels, partial(self._encode, finite, encode))
            self._report()
        self._writer.end_shard(index, rows)

    def _encode(self, finite: Tensor, encode: Encode) -> Iterable[Mapping[str, Tensor]]:
        if not finite:  # read here, in the writer's thread, since it waits for a GPU
            raise not_finite(f"the teacher of the signals in {self._folder}")
        return encode()

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
            self._run.hook.kdtool_progress(self._run, self._writer.rows + others, None)

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


Encode = Callable[[], Iterable[Mapping[str, "Tensor"]]]
"""Returns what to store of each row of a batch."""
_BATCHES_AHEAD = 4


class ShardWriter:
    """Writes shards in one thread; use it in a `with` block, which returns when all complete shards are on disk.

    If the block raises, the shards that were given to it completely are still written. An error in the thread is raised
    by one of the next calls, or at the end of the block; nothing is written after it.
    """

    def __init__(self, folder: Path) -> None:
        self.rows = 0
        """Rows encoded so far."""
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "kdtool shard writer")
        self._waiting: deque[Future[None]] = deque()
        self._parts: dict[str, list[Tensor]] = {}
        self._labels: list[int] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None and self._waiting:
            self._waiting[-1].result()

    def add(self, labels: list[int], encode: Encode) -> None:
        """Add a batch to the current shard: the number of labels in each row, and what encodes its rows.

        Raises:
            Exception: an earlier call of `encode` raised it.
            kdtool.StorageError: an earlier shard cannot be written.
        """
        self._put(lambda: self._encode(labels, encode))

    def end_shard(self, index: int, rows: list[kdtool.Row]) -> None:
        """End the shard with this number, which contains the rows added since the last one; raises as `add` does."""
        self._put(lambda: self._save(index, [row.key for row in rows]))

    def _put(self, work: Callable[[], None]) -> None:
        before = self._waiting[-1] if self._waiting else None

        def work_after() -> None:
            if before is not None:
                before.result()  # an error there ends all that follows
            work()

        self._waiting.append(self._thread.submit(work_after))
        if len(self._waiting) > _BATCHES_AHEAD:
            self._waiting.popleft().result()

    def _encode(self, labels: list[int], encode: Encode) -> None:
        for stored in encode():
            for name, tensor in stored.items():
                self._parts.setdefault(name, []).append(tensor)
        self._labels += labels
        self.rows += len(labels)

    def _save(self, index: int, keys: list[str]) -> None:
        import torch

        tensors = {name: torch.cat(parts) for name, parts in self._parts.items()}
        lengths = {name: [len(part) for part in parts] for name, parts in self._parts.items()}
        facts = {"rows": keys, "labels": self._labels, "lengths": lengths}
        self._parts, self._labels = {}, []
        save(self._folder, shard_name(index), tensors, facts)
