"""Complete artefacts in the remote store, the parts of their files, and the size limit of local copies.

The manifest is written last and once. Large files are stored in parts: each part is an object, named by the file's
SHA-256 and the part's place in it. So the name determines the content. A killed transfer skips the parts that are
there, and two machines that write the same artefact at once never overwrite a part with another content. Above the size
limit, local copies of artefacts that the store has are removed, those used longest ago first.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import kdtool
from filelock import FileLock, Timeout

from kdtool_cloud.store.objects import Objects

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
    for name, entry in _files_in(manifest).items():
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
    for name, entry in _files_in(manifest).items():
        fetch_file(objects, key, beside / name, entry, there)
    beside.replace(folder)


def _files_in(manifest: bytes) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = json.loads(manifest)["files"]
    return {checked_name(name): entry for name, entry in files.items()}


PART = 32 << 20
"""Bytes of a part. It may change: parts that are there are read by the sizes they have."""
_AT_ONCE = 4
"""Parts on their way at the same time."""


def send_file(objects: Objects, prefix: str, file: Path, sha256: str, there: Mapping[str, int]) -> None:
    """Write the parts of a file below `prefix`, except for those `there`, by key with their sizes.

    Raises:
        StorageError: the file's content is not that of `sha256`.
    """
    size = file.stat().st_size
    parts = {start: min(PART, size - start) for start in range(0, max(size, 1), PART)}
    missing = [start for start, count in parts.items() if there.get(_part_key(prefix, sha256, start)) != count]
    if missing and _hash(file) != sha256:
        raise kdtool.StorageError(
            f"a stored file is damaged: {file} is not what was written. Delete the folder {file.parent} and run again "
            "to make it again"
        )

    def send(start: int) -> None:
        objects.write(_part_key(prefix, sha256, start), _read_part(file, start, parts[start]))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(send, missing))


def fetch_file(
    objects: Objects, prefix: str, file: Path, entry: Mapping[str, str | int], there: Mapping[str, int]
) -> None:
    """Fetch a file of a complete artefact, from the part at which a killed process stopped.

    Args:
        objects: the store.
        prefix: the artefact's key.
        file: the place of the file, without its folder.
        entry: its size ("bytes") and its "sha256".
        there: sizes of the artefact's objects, by key.

    Raises:
        StorageError: a part is missing, or the content is not what was written.
    """
    sha256, size = str(entry["sha256"]), int(entry["bytes"])
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as opened, ThreadPoolExecutor(_AT_ONCE) as pool:
        parts = _parts(prefix, sha256, size, there)
        done = max((start for start in (*parts, size) if start <= opened.tell()), default=0)
        opened.truncate(done)
        waiting = [start for start in parts if start >= done and size]
        for group in (waiting[first : first + _AT_ONCE] for first in range(0, len(waiting), _AT_ONCE)):
            for content in pool.map(lambda start: objects.read(_part_key(prefix, sha256, start)), group):
                opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    if _hash(file) != sha256:
        file.unlink()
        raise kdtool.StorageError(
            f"the stored file {prefix}/{file.name} is damaged: its SHA-256 is not {sha256}. Delete {prefix}/ in the store "
            "and run again to make it again"
        )


def _parts(prefix: str, sha256: str, size: int, there: Mapping[str, int]) -> dict[int, int]:
    """Return the sizes of a file's parts by the places at which they start."""
    parts, start = dict[int, int](), 0
    while start < size or not parts:
        count = there.get(_part_key(prefix, sha256, start), -1)
        if count < 0 or (count == 0 and size):
            raise kdtool.StorageError(
                f"the store lacks a part of {prefix}: {sha256} from byte {start:,}. Delete {prefix}/ in the store and run "
                "again to make it again"
            )
        parts[start] = count
        start += count
    return parts


def _part_key(prefix: str, sha256: str, start: int) -> str:
    return f"{prefix}/{sha256}.{start}"


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_part(file: Path, start: int, count: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(count)


def checked_name(name: str) -> str:
    """Return the name of a file below a folder.

    Raises:
        StorageError: it leads out of the folder.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
        raise kdtool.StorageError(
            f"the store lists the file {name!r}, but files must lie below their folder; delete what lists it in the store"
        )
    return name


_LIMIT = "KDTOOL_STORE_LIMIT"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def read_limit() -> int | None:
    """Return the bytes that the local folder may take after a run, from KDTOOL_STORE_LIMIT; None without a limit.

    Raises:
        UsageError: it is not a size.
    """
    text = os.environ.get(_LIMIT, "")
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", text)
    if text and size is None:
        raise kdtool.UsageError(f"{_LIMIT}={text!r} is not a size; write for instance {_LIMIT}=200GB")
    return int(float(size[1]) * _UNITS[size[2]]) if size else None


def touch(folder: Path) -> None:
    """Note that an artefact is used now."""
    (folder / MANIFEST).touch()


def free_space(store: Path, limit: int, ended: Path, is_kept: Callable[[Path], bool]) -> None:
    """Remove artefacts from `store` until it takes at most `limit` bytes, unless another run uses the folder.

    `ended` is the folder of the run that has just ended. `is_kept` returns whether the remote store has an artefact; others
    stay.
    """
    if _is_used(store, ended):
        return
    artefacts = [manifest.parent for manifest in store.glob(f"*/*/{MANIFEST}")]
    total = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    for folder in sorted(artefacts, key=lambda folder: (folder / MANIFEST).stat().st_mtime):
        if total <= limit:
            return
        if is_kept(folder):
            total -= sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            aside = folder.with_name(f"{folder.name}.removed")
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                shutil.rmtree(aside, ignore_errors=True)  # left by a process that was stopped below
                folder.rename(aside)
            shutil.rmtree(aside)


def _is_used(store: Path, ended: Path) -> bool:
    """Return whether another run that is registered in the store is running."""
    for record in (store / "runs").glob("*.json"):
        folder = Path(json.loads(record.read_bytes())["folder"])
        if folder != ended and (folder / ".lock").exists():
            try:
                with FileLock(folder / ".lock").acquire(timeout=0):
                    pass
            except Timeout:
                return True
    return False
