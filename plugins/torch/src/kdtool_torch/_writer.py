"""Encode and write a recording's shards in a thread, while the teacher computes the next signals.

The thread takes batches in order from a short queue, so that the teacher is never more than a few batches ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import TYPE_CHECKING

import kdtool

from kdtool_torch._shard_files import save, shard_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Encode", "ShardWriter"]

Encode = Callable[[], Iterable[Mapping[str, "Tensor"]]]
"""Returns what to store of each row of a batch."""

_BATCHES_AHEAD = 4


class ShardWriter:
    """Writes shards in one thread; use it in a `with` block, which returns when all complete shards are on disk.

    If the block raises, the shards that were given to it completely are still written. An error in the thread is raised
    by the next call, or at the end of the block.
    """

    def __init__(self, folder: Path) -> None:
        self.rows = 0
        """Rows encoded so far."""
        self._folder = folder
        self._queue: Queue[Callable[[], None] | None] = Queue(_BATCHES_AHEAD)
        self._error: BaseException | None = None
        self._parts: dict[str, list[Tensor]] = {}
        self._labels: list[int] = []
        self._thread = threading.Thread(target=self._work, name="kdtool shard writer", daemon=True)

    def __enter__(self) -> ShardWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

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
        self._raise()
        self._queue.put(work)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._error is None:  # after an error the queue is emptied, so that nobody waits for room in it
                try:
                    work()
                except BaseException as error:  # raised again in the thread that records
                    self._error = error

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
