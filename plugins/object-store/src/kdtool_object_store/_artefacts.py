"""Complete artefacts in the remote store: parts of files named by content, and the manifest, written last and once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from kdtool_object_store._names import checked_name
from kdtool_object_store._objects import Objects
from kdtool_object_store._parts import fetch_file, send_file

__all__ = ["MANIFEST", "fetch_artefact", "send_artefact"]

MANIFEST = "manifest.json"
_FETCHING = ".fetching"
"""The end of the name of a folder into which an artefact is fetched; `kdtool clean` knows it, too."""


def send_artefact(objects: Objects, key: str, folder: Path) -> bool:
    """Write a complete artefact unless it is there, and return whether the store has this one.

    A killed process resumes with the parts that are missing. The store's is another one if another machine completed it
    first: its copy stays.
    """
    there, manifest = objects.list(key), (folder / MANIFEST).read_bytes()
    if f"{key}/{MANIFEST}" in there:
        return objects.read(f"{key}/{MANIFEST}") == manifest
    for name, entry in _files(manifest).items():
        send_file(objects, key, folder / name, entry["sha256"], there)
    return objects.create(f"{key}/{MANIFEST}", manifest)


def fetch_artefact(objects: Objects, key: str, folder: Path) -> None:
    """Fetch an artefact, if it is complete in the store; a killed process resumes. Its files are only their owner's.

    Raises:
        StorageError: a stored file is not what was written.
    """
    try:
        manifest = objects.read(f"{key}/{MANIFEST}")
    except FileNotFoundError:
        return
    beside = folder.with_name(folder.name + _FETCHING)
    begun = beside / MANIFEST
    if beside.exists() and not (begun.is_file() and begun.read_bytes() == manifest):
        shutil.rmtree(beside)
    beside.mkdir(mode=0o700, exist_ok=True)
    begun.write_bytes(manifest)
    there = objects.list(key)
    for name, entry in _files(manifest).items():
        fetch_file(objects, key, beside / name, entry, there)
    beside.replace(folder)


def _files(manifest: bytes) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = json.loads(manifest)["files"]
    return {checked_name(name): entry for name, entry in files.items()}
