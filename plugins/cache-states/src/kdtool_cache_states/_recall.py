"""Recalling: the signal of any batch of recorded rows. Called by the cache for every micro-batch; reads only."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_cache_states._files import HEAD, LAST, REMEDY, layer_name, load_manifest, shard_name, verified

if TYPE_CHECKING:
    from torch import Tensor, device

__all__ = ["Recorded"]

OPEN_SHARDS = 128
"""Files that stay mapped into memory; further ones are opened again when they are needed."""


@dataclass(frozen=True)
class _Place:
    shard: str
    start: int
    stop: int


class Recorded:
    """The signals of one folder."""

    def __init__(self, folder: Path) -> None:
        manifest = load_manifest(folder, HEAD)
        if manifest is None:
            raise kdtool.StorageError(f"{folder} holds no recorded signals; {REMEDY}")
        self._folder = folder
        self._manifests = {HEAD: manifest}
        self._verified: set[str] = set()
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._heads: dict[device, kdtool.Head] = {}
        self._places = self._read_places()

    def signal(self, batch: kdtool.Batch, want: kdtool.Want) -> kdtool.Signal:
        """Return what is wanted of the batch, on its device."""
        places = self._find(batch)
        device = batch.labels.device
        lazy = None
        if "logits" in want.kinds:
            lazy = kdtool.LazyLogits(self._states(LAST, places).to(device), self._head(device))
        layers = want.layers if "hidden" in want.kinds else ()
        hidden = {layer: self._states(layer_name(layer), places).to(device) for layer in layers}
        return kdtool.Signal(self._manifests[HEAD]["fingerprint"], lazy, hidden=hidden)

    def _read_places(self) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        for name in map(shard_name, count()):
            manifest = load_manifest(self._folder, name)
            if manifest is None:
                return places
            self._manifests[name] = manifest
            start = 0
            for key, labels in zip(manifest["rows"], manifest["labels"], strict=True):
                places[key] = _Place(name, start, start + labels)
                start += labels
        raise AssertionError("count() does not end")

    def _find(self, batch: kdtool.Batch) -> list[_Place]:
        from kdtool_rows import NO_LABEL

        places = []
        for key, labels in zip(batch.row_keys, (batch.labels != NO_LABEL).sum(1).tolist(), strict=True):
            place = self._places.get(key)
            if place is None:
                raise kdtool.StorageError(
                    f"row '{key}' was not recorded in {self._folder}, which holds {len(self._places)} rows: the rows in use "
                    f"are not those that the teacher saw; {REMEDY}"
                )
            if place.stop - place.start != labels:
                raise kdtool.StorageError(
                    f"row '{key}' has {labels} labels, but {place.stop - place.start} were recorded in {self._folder}; "
                    f"{REMEDY}"
                )
            places.append(place)
        return places

    def _states(self, name: str, places: list[_Place]) -> Tensor:
        import torch

        parts = []
        for place in places:
            shard = self._shard(place.shard)
            if name not in shard:
                raise kdtool.StorageError(
                    f"'{name}' was not recorded in {self._folder}, only {sorted(shard)}; {REMEDY}"
                )
            parts.append(shard[name][place.start : place.stop])
        return torch.cat(parts)  # a copy, which does not change or vanish with the file

    def _shard(self, name: str) -> dict[str, Tensor]:
        """Return a shard's tensors, mapped into memory."""
        tensors: dict[str, Tensor] | None = self._open.get(name)
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
            path = verified(self._folder, name, self._manifests[name])
            self._verified.add(name)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict

    def _head(self, device: device) -> kdtool.Head:
        if device not in self._heads:
            facts, tensors = self._manifests[HEAD], self._load(HEAD)
            bias = tensors.get("bias")
            self._heads[device] = kdtool.Head(
                weight=tensors["weight"].to(device),
                vocabulary=facts["vocabulary"],
                bias=None if bias is None else bias.to(device),
                scale=facts["scale"],
                soft_cap=facts["soft_cap"],
            )
        return self._heads[device]
