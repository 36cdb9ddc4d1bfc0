"""Read and write the files of a recording: safetensors, each with a manifest.

`shard-00000.safetensors` contains the tensors of its rows, concatenated; `teacher.safetensors` those that are stored once
for all rows. `<name>.json` next to each is its manifest: size, SHA-256 and further facts. The manifest is written last, so a
file without one is incomplete. Both are committed first, so that other leftovers of a killed process are ignored.
Independent of signals.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch._safetensors import write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMAT", "ONCE", "REMEDY", "load_manifest", "load_manifests", "save", "shard_name", "verify"]

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
        digest, size = _digest(beside), beside.stat().st_size
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
        if path.stat().st_size == manifest["bytes"] and (not hashing or _digest(path) == manifest["sha256"]):
            return path
    except OSError as error:
        raise kdtool.StorageError(f"{path} cannot be read: {error}; {REMEDY}") from error
    raise kdtool.StorageError(f"{path} is damaged: its content differs from the recorded one; {REMEDY}")


def _own_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
