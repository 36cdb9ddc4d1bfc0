"""Recording: the teacher's states of all rows, shard by shard. Called by the cache, once for each set of signals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_cache_states._files import HEAD, LAST, layer_name, load_manifest, save, shard_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["record"]


def record(
    run: kdtool.RunInfo,
    rows: kdtool.RowSource,
    source: kdtool.SignalSource,
    folder: Path,
    rows_per_shard: int,
    batch: int,
) -> int:
    """Record the rows of every shard that is not complete, and return the number of all rows."""
    recorder = _Recorder(run, source, folder)
    for index, start in enumerate(range(0, len(rows), rows_per_shard)):
        shard = [rows[i] for i in range(start, min(start + rows_per_shard, len(rows)))]
        if not recorder.has(index, [row.key for row in shard]):
            recorder.record(index, [shard[i : i + batch] for i in range(0, len(shard), batch)], done=start)
        recorder.tell(start + len(shard), at_once=start + len(shard) == len(rows))
    return len(rows)


class _Recorder:
    """Writes shards, and the head with the first of them."""

    def __init__(self, run: kdtool.RunInfo, source: kdtool.SignalSource, folder: Path) -> None:
        self._run = run
        self._source = source
        self._folder = folder
        self._told = float("-inf")
        for left in folder.glob(".tmp*"):  # safetensors' own, from a process killed while it wrote
            left.unlink()
        head = load_manifest(folder, HEAD)
        self._fingerprint: str | None = head["fingerprint"] if head else None

    def has(self, index: int, keys: list[str]) -> bool:
        """Say whether a shard is complete and holds these rows."""
        manifest = load_manifest(self._folder, shard_name(index))
        return manifest is not None and manifest["rows"] == keys

    def record(self, index: int, batches: list[list[kdtool.Row]], done: int) -> None:
        """Ask the teacher for one shard's signals and write them."""
        import torch

        parts: dict[str, list[Tensor]] = {}
        counts: list[int] = []
        for rows, labelled, signal in self._signals(batches):
            for name, states in self._states(signal).items():
                if len(states) != sum(labelled):
                    raise kdtool.PluginError(
                        f"the teacher's signal '{name}' has {len(states)} positions for a batch with {sum(labelled)} labels"
                    )
                # Copied, since a teacher may use its memory again.
                parts.setdefault(name, []).append(states.detach().to("cpu", copy=True))
            counts += labelled
            done += len(rows)
            self.tell(done)
        tensors = {name: torch.cat(states) for name, states in parts.items()}
        keys = [row.key for rows in batches for row in rows]
        save(self._folder, shard_name(index), tensors, {"rows": keys, "labels": counts})

    def tell(self, done: int, *, at_once: bool = False) -> None:
        """Report progress, at most some times a second."""
        if at_once or monotonic() - self._told > 0.2:
            self._told = monotonic()
            self._run.hook.kdtool_progress(self._run, done)

    def _signals(self, batches: list[list[kdtool.Row]]) -> Iterator[tuple[list[kdtool.Row], list[int], kdtool.Signal]]:
        """Yield each batch's rows, their numbers of labels, and the teacher's signal."""
        from kdtool_rows import NO_LABEL, collate

        for rows in batches:
            batch = collate(rows)
            signal = self._source.signal(batch)
            if self._fingerprint is None:
                self._save_head(signal)
            if signal.fingerprint != self._fingerprint:
                raise kdtool.PluginError(
                    f"the signals in {self._folder} come from teacher {self._fingerprint}, this teacher is "
                    f"{signal.fingerprint}: its fingerprint should have led to a folder of its own"
                )
            yield rows, (batch.labels != NO_LABEL).sum(1).tolist(), signal

    def _states(self, signal: kdtool.Signal) -> dict[str, Tensor]:
        want = self._source.want
        found = {LAST: signal.lazy.hidden} if signal.lazy is not None else {}
        found |= {layer_name(layer): states for layer, states in signal.hidden.items()}
        wanted = {LAST} if "logits" in want.kinds else set()
        wanted |= {layer_name(layer) for layer in want.layers} if "hidden" in want.kinds else set()
        if not wanted <= set(found):
            raise kdtool.PluginError(
                f"the teacher was asked for {sorted(wanted)} and gave {sorted(found)}: it cannot offer what it declares"
            )
        return {name: found[name] for name in sorted(wanted)}

    def _save_head(self, signal: kdtool.Signal) -> None:
        facts: dict[str, Any] = {"fingerprint": signal.fingerprint}
        tensors: dict[str, Tensor] = {}
        if signal.lazy is not None:
            head = signal.lazy.head
            facts |= {"vocabulary": head.vocabulary, "scale": head.scale, "soft_cap": head.soft_cap}
            tensors = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
        stored = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        save(self._folder, HEAD, stored, facts)
        self._fingerprint = signal.fingerprint
