"""The files of a recording: safetensors, each with a manifest that makes it count.

`shard-00000.safetensors` holds what was kept of its rows, one after the other in each tensor; `teacher.safetensors` what is
kept once for all rows. `<name>.json` beside each is its manifest: size, SHA-256, and what else is to know. It is written
last, so a file without one was being written when the process ended. Both are
committed before: what else a killed process left is not there for the next. Nothing here knows of signals.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMAT", "ONCE", "REMEDY", "load_manifest", "load_manifests", "save", "shard_name", "verified"]

FORMAT = 2
ONCE = "teacher"
_OWN = "manifest"
"""The key under which a manifest holds the SHA-256 of the rest of itself."""
REMEDY = "delete the folder and run again to record the signals anew"


def shard_name(index: int) -> str:
    """Return the name of a shard, without ending."""
    return f"shard-{index:05d}"


def save(folder: Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors, then their manifest with `facts` in it; each is there completely or not at all.

    Raises:
        kdtool.StorageError: it cannot be written.
    """
    from kdtool_transformers import write_safetensors
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
    """Return a file's manifest, or None where the file was never completed.

    Raises:
        kdtool.StorageError: the manifest is damaged or of another format.
    """
    path = folder / f"{name}.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise kdtool.StorageError(f"{path} has format {manifest['format']}, this version reads {FORMAT}; {REMEDY}")
        if manifest.pop(_OWN) != _own_digest(manifest):
            raise ValueError("its content is not what was recorded")
        return manifest  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise kdtool.StorageError(f"{path} is damaged: {error!r}; {REMEDY}") from error


def load_manifests(folder: Path) -> tuple[Mapping[str, Any] | None, dict[str, Mapping[str, Any]]]:
    """Return the manifest of what is kept once, None where nothing is recorded, and those of the shards, by name.

    Raises:
        kdtool.StorageError: a manifest is damaged or of another format.
    """
    once, shards = load_manifest(folder, ONCE), dict[str, Mapping[str, Any]]()
    while once is not None and (manifest := load_manifest(folder, shard_name(len(shards)))) is not None:
        shards[shard_name(len(shards))] = manifest
    return once, shards


def verified(folder: Path, name: str, manifest: Mapping[str, Any]) -> Path:
    """Return the path of a file's tensors after comparing its size with its manifest, and its hash on the first rank.

    Raises:
        kdtool.StorageError: they differ.
    """
    path = folder / f"{name}.safetensors"
    try:
        hashing = os.environ.get("RANK", "0") == "0"
        if path.stat().st_size == manifest["bytes"] and (not hashing or _digest(path) == manifest["sha256"]):
            return path
    except OSError as error:
        raise kdtool.StorageError(f"{path} cannot be read: {error}; {REMEDY}") from error
    raise kdtool.StorageError(f"{path} is damaged: its content is not what was recorded; {REMEDY}")


def _own_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(beside: Path, target: Path) -> None:
    """Rename a written file to its name, its content and the name on disk before anything goes on."""
    with beside.open("rb+") as file:
        os.fsync(file.fileno())
    try:  # opened before: once the last file has its name, another rank may rename the folder
        descriptor = os.open(target.parent, os.O_RDONLY)
    except PermissionError:  # Windows keeps folders closed and needs no such call
        beside.replace(target)
        return
    try:
        beside.replace(target)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
