"""Large files in parts: each part is an object, named by the file's SHA-256 and the part's place in it.

So the name determines the content. A killed transfer skips the parts that are there, and two machines that write the same
artefact at once never overwrite a part with another content.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kdtool

from kdtool_object_store._objects import Objects

__all__ = ["PART", "fetch_file", "send_file"]

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
    missing = [start for start, count in parts.items() if there.get(_key(prefix, sha256, start)) != count]
    if missing and _hash(file) != sha256:
        raise kdtool.StorageError(
            f"a stored file is damaged: {file} is not what was written. Delete the folder {file.parent} and run again "
            "to make it again"
        )

    def send(start: int) -> None:
        objects.write(_key(prefix, sha256, start), _read(file, start, parts[start]))

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
            for content in pool.map(lambda start: objects.read(_key(prefix, sha256, start)), group):
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
        count = there.get(_key(prefix, sha256, start), -1)
        if count < 0 or (count == 0 and size):
            raise kdtool.StorageError(
                f"the store lacks a part of {prefix}: {sha256} from byte {start:,}. Delete {prefix}/ in the store and run "
                "again to make it again"
            )
        parts[start] = count
        start += count
    return parts


def _key(prefix: str, sha256: str, start: int) -> str:
    return f"{prefix}/{sha256}.{start}"


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read(file: Path, start: int, count: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(count)
