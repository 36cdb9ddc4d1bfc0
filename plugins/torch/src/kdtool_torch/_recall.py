"""Recall any batch of recorded rows. Called by caches for every micro-batch, in any thread; only reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch._batches import NO_LABEL
from kdtool_torch._moved import original_of
from kdtool_torch._shard_files import ONCE, REMEDY, load_manifests, verify

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RecordedRow", "RecordedRows"]

OPEN_SHARDS = 128
"""Files that stay memory-mapped; the least recently used ones beyond it are closed."""


@dataclass(frozen=True)
class RecordedRow:
    """Location of a row: its shard, its index there, and the number of its labelled positions."""

    shard: str
    index: int
    labels: int


class RecordedRows:
    """Signals recorded in one folder. A file's hash is checked when the process first opens it. Threads may share it.

    Raises:
        kdtool.StorageError: the folder contains no recording, or a manifest is damaged.
    """

    def __init__(self, folder: Path) -> None:
        manifest, shards = load_manifests(folder)
        if manifest is None:
            raise kdtool.StorageError(f"{folder} contains no recorded signals; {REMEDY}")
        self.facts = manifest
        """The teacher's `fingerprint`, and the facts stored once for all rows."""
        self._folder = folder
        self._manifests = {ONCE: manifest, **shards}
        self._verified: set[str] = set()
        self._open: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._lock = Lock()  # of the two above; tensors are mapped, so that no read has a position in a file
        self._starts = {name: _starts(shard["lengths"]) for name, shard in shards.items()}
        self._rows = {
            key: RecordedRow(name, index, labels)
            for name, shard in shards.items()
            for index, (key, labels) in enumerate(zip(shard["rows"], shard["labels"], strict=True))
        }

    def header(self) -> dict[str, Tensor]:
        """Return the tensors stored once for all rows, read from disk."""
        with self._lock:
            return self._load(ONCE)

    def find(self, batch: kdtool.Batch) -> list[RecordedRow]:
        """Return the locations of the batch's rows.

        Raises:
            kdtool.StorageError: a row was not recorded, or was recorded with a different number of labels.
        """
        rows = []
        for key, labels in zip(batch.row_keys, (original_of(batch.labels) != NO_LABEL).sum(1).tolist(), strict=True):
            row = self._rows.get(key)
            if row is None:
                raise kdtool.StorageError(
                    f"row '{key}' is missing from the {len(self._rows)} rows recorded in {self._folder}: the training rows "
                    f"are not the recorded ones; {REMEDY}"
                )
            if row.labels != labels:
                raise kdtool.StorageError(
                    f"row '{key}' has {labels} labels, but {row.labels} were recorded in {self._folder}; {REMEDY}"
                )
            rows.append(row)
        return rows

    def pieces(self, rows: Sequence[RecordedRow], name: str) -> list[Tensor]:
        """Return the rows' parts of a tensor, as views of the mapped files: copy before keeping or changing them.

        Raises:
            kdtool.StorageError: the tensor was not recorded, or a file is damaged.
        """
        pieces = []
        for row in rows:
            shard = self._shard(row.shard)
            if name not in shard:
                raise kdtool.StorageError(
                    f"'{name}' was not recorded in {self._folder}, only {sorted(shard)}; {REMEDY}"
                )
            start, stop = self._starts[row.shard][name][row.index : row.index + 2]
            pieces.append(shard[name][start:stop])
        return pieces

    def _shard(self, name: str) -> dict[str, Tensor]:
        """Return a shard's tensors, mapped into memory."""
        with self._lock:
            tensors = self._open.get(name)
            if tensors is None:
                tensors = self._open[name] = self._load(name)
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            return tensors

    def _load(self, name: str) -> dict[str, Tensor]:
        from safetensors import safe_open

        path = self._folder / f"{name}.safetensors"
        if name not in self._verified:
            path = verify(self._folder, name, self._manifests[name])
            self._verified.add(name)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def _starts(lengths: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return where each row begins in each tensor, and where the last one ends."""
    return {name: list(accumulate(sizes, initial=0)) for name, sizes in lengths.items()}
