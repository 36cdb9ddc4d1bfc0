"""Recording: what a cache keeps of all rows, shard by shard. Called by caches, once for each set of signals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import kdtool

from kdtool_shards._files import ONCE, load_manifest, save, shard_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Recording", "record_rows"]


class Recording(Protocol):
    """What a cache keeps of a teacher's signals."""

    def once(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return what is kept one time for all rows, of the first signal: tensors, and facts that JSON can hold."""

    def of_rows(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Iterable[Mapping[str, Tensor]]:
        """Return what is kept of each row of a batch: the same names for all, each tensor of any length in dimension 0.

        The tensors are written later, so they must not be memory that the teacher uses again.
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
    """Record the rows of every shard that is not complete, `batch` rows at a time, and return the number of all rows.

    Raises:
        kdtool.StorageError: the disk is full or cannot be written.
        kdtool.PluginError: the signals come from another teacher than those that are there already.
    """
    recorder = _Recorder(run, source, folder, recording)
    for index, start in enumerate(range(0, len(rows), rows_per_shard)):
        shard = [rows[i] for i in range(start, min(start + rows_per_shard, len(rows)))]
        if not recorder.has(index, [row.key for row in shard]):
            recorder.record(index, [shard[i : i + batch] for i in range(0, len(shard), batch)], done=start)
        recorder.tell(start + len(shard), at_once=start + len(shard) == len(rows))
    return len(rows)


class _Recorder:
    """Writes shards, and with the first of them what is kept once."""

    def __init__(self, run: kdtool.RunInfo, source: kdtool.SignalSource, folder: Path, recording: Recording) -> None:
        self._run = run
        self._source = source
        self._folder = folder
        self._recording = recording
        self._told = float("-inf")
        for left in folder.glob(".tmp*"):  # safetensors' own, from a process killed while it wrote
            left.unlink()
        once = load_manifest(folder, ONCE)
        self._fingerprint: str | None = once["fingerprint"] if once else None

    def has(self, index: int, keys: list[str]) -> bool:
        """Say whether a shard is complete and holds these rows."""
        manifest = load_manifest(self._folder, shard_name(index))
        return manifest is not None and manifest["rows"] == keys

    def record(self, index: int, batches: list[list[kdtool.Row]], done: int) -> None:
        """Ask the teacher for one shard's signals and write what is kept of them."""
        import torch

        parts: dict[str, list[Tensor]] = {}
        labels: list[int] = []
        for batch, labelled, signal in self._signals(batches):
            for kept in self._recording.of_rows(batch, signal):
                for name, tensor in kept.items():
                    parts.setdefault(name, []).append(tensor)
            labels += labelled
            done += len(labelled)
            self.tell(done)
        tensors = {name: torch.cat(kept) for name, kept in parts.items()}
        lengths = {name: [len(tensor) for tensor in kept] for name, kept in parts.items()}
        keys = [row.key for rows in batches for row in rows]
        save(self._folder, shard_name(index), tensors, {"rows": keys, "labels": labels, "lengths": lengths})

    def tell(self, done: int, *, at_once: bool = False) -> None:
        """Report progress, at most some times a second."""
        if at_once or monotonic() - self._told > 0.2:
            self._told = monotonic()
            self._run.hook.kdtool_progress(self._run, done)

    def _signals(self, batches: list[list[kdtool.Row]]) -> Iterator[tuple[kdtool.Batch, list[int], kdtool.Signal]]:
        """Yield each batch, its rows' numbers of labels, and the teacher's signal."""
        from kdtool_rows import NO_LABEL, collate

        for rows in batches:
            batch = collate(rows)
            signal = self._source.signal(batch)
            if self._fingerprint is None:
                tensors, facts = self._recording.once(signal)
                save(self._folder, ONCE, tensors, {"fingerprint": signal.fingerprint, **facts})
                self._fingerprint = signal.fingerprint
            if signal.fingerprint != self._fingerprint:
                raise kdtool.PluginError(
                    f"the signals in {self._folder} come from teacher {self._fingerprint}, this teacher is "
                    f"{signal.fingerprint}: its fingerprint should have led to a folder of its own"
                )
            yield batch, (batch.labels != NO_LABEL).sum(1).tolist(), signal
