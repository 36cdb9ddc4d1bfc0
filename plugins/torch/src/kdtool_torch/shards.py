"""Files of a recording: safetensors with a manifest each, and recorded rows found in them.

`shard-00000.safetensors` contains the tensors of its rows, concatenated; `teacher.safetensors` those that are stored
once for all rows. `<name>.json` next to each is its manifest: size, SHA-256 and further facts. The manifest is written
last, so a file without one is incomplete. Both are committed first, so that other leftovers of a killed process are
ignored. Independent of signals.

Caches call `RecordedRows` for every micro-batch, in any thread; it only reads.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch.batch import NO_LABEL, original_of
from kdtool_torch.files import hash_file, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
ONCE = "teacher"
_OWN = "manifest"
"""The manifest's key for the SHA-256 of the rest of the manifest."""
REMEDY = "delete the folder and run again to record the signals"


def shard_name(index: int) -> str:
    """Return the name of a shard, without its suffix."""
    return f"shard-{index:05d}"


def save(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors, then a manifest that includes `facts`; each file is complete or absent.

    Raises:
        kdtool.StorageError: a file cannot be written.
    """
    from safetensors import SafetensorError

    target, beside = folder / f"{name}.safetensors", folder / f".{name}.writing"
    try:
        write_safetensors(tensors, beside)
        digest, size = hash_file(beside), beside.stat().st_size
        _publish(beside, target)
        manifest = {"format": FORMAT, "sha256": digest, "bytes": size, **facts}
        beside.write_text(json.dumps({**manifest, _OWN: _own_digest(manifest)}), encoding="utf-8")
        about = folder / f"{name}.json"
        kdtool.commit(folder, target, about, pending={about: beside})  # the last `about` lets another rank finish
        _publish(beside, about)
    except (OSError, SafetensorError) as error:
        raise kdtool.StorageError(f"signals cannot be written to {target}: {error}; make room and run again") from error


def load_manifest(folder: Path, name: str) -> Mapping[str, Any] | None:
    """Return a file's manifest, or None if the file was never completed.

    Raises:
        kdtool.StorageError: the manifest is damaged or of another format.
    """
    path = folder / f"{name}.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise kdtool.StorageError(
                f"{path} has format {manifest['format']}, but this version reads {FORMAT}; {REMEDY}"
            )
        if manifest.pop(_OWN) != _own_digest(manifest):
            raise ValueError("its content differs from the recorded one")
        return manifest  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise kdtool.StorageError(f"{path} is damaged: {error!r}; {REMEDY}") from error


def load_manifests(folder: Path) -> tuple[Mapping[str, Any] | None, dict[str, Mapping[str, Any]]]:
    """Return the manifest of the whole recording (None if nothing is recorded) and those of the shards, by name.

    Raises:
        kdtool.StorageError: a manifest is damaged or of another format.
    """
    once, shards = load_manifest(folder, ONCE), dict[str, Mapping[str, Any]]()
    while once is not None and (manifest := load_manifest(folder, shard_name(len(shards)))) is not None:
        shards[shard_name(len(shards))] = manifest
    return once, shards


def verify(folder: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    """Return the path of a file's tensors if its size, and on the first rank its hash, match the manifest.

    Raises:
        kdtool.StorageError: they do not match.
    """
    path = folder / f"{name}.safetensors"
    try:
        hashing = os.environ.get("RANK", "0") == "0"
        if path.stat().st_size == manifest["bytes"] and (not hashing or hash_file(path) == manifest["sha256"]):
            return path
    except OSError as error:
        raise kdtool.StorageError(f"{path} cannot be read: {error}; {REMEDY}") from error
    raise kdtool.StorageError(f"{path} is damaged: its content differs from the recorded one; {REMEDY}")


def _own_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _publish(beside: Path, target: Path) -> None:
    """Rename a written file to `target`; return when content and name are durable."""
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    try:  # opened first: once the last file has its name, another rank may rename the folder
        descriptor = os.open(target.parent, os.O_RDONLY)
    except PermissionError:  # Windows keeps folders closed and needs no such call
        beside.replace(target)
        return
    try:
        beside.replace(target)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
