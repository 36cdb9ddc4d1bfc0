"""Small files that are never half written, JSON files in which a changed byte is noticed, and lines of JSON.

A sealed file is a JSON object whose last entry, `sha256`, is the digest of every byte before it. Manifests, the graph and
results are sealed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from kdtool._errors import StorageError

PRIVATE = 0o600
"""Mode of a file with prompts, answers or money."""


def make_private(folder: Path) -> None:
    """Create a folder that only its owner enters; one that exists stays as it is, so that others can be let in."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def write_beside(path: Path, text: str) -> None:
    """Write a small file under a temporary name, sync it, and rename it, so that it is never half written.

    Raises:
        StorageError: a folder is in its place.
    """
    beside = path.with_name(path.name + ".writing")
    _refuse_folder(path)
    _refuse_folder(beside)
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def append_line(file: FileIO, line: bytes) -> None:
    """Append a line to an unbuffered file, whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    if (written := file.write(line)) < len(line):
        file.truncate(file.tell() - written)
        raise OSError(errno.ENOSPC, "the disk is full")


def json_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a JSON Lines file. Only a line feed ends one: U+2028, for one, may be inside of texts."""
    with path.open("rb") as file:
        yield from file


def write_sealed(path: Path, content: Mapping[str, Any] | str) -> None:
    """Write a JSON object, or the text of one, with its digest."""
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    body = text.rstrip().removesuffix("}").rstrip()
    write_beside(path, body + _tail(body.encode()))


def read_sealed(path: Path, remedy: str) -> bytes:
    """Return the content of a sealed file.

    Raises:
        FileNotFoundError: the file does not exist.
        StorageError: its content is not what was written; the message ends with `remedy`.
    """
    _refuse_folder(path)
    content = path.read_bytes()
    body = content[: -len(_tail(b""))]
    if content != body + _tail(body).encode():
        raise StorageError(f"the stored file {path} is damaged: its content is not what was written. {remedy}")
    return content


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise StorageError(
            f"the stored file {path} is damaged: a folder is in its place. Delete the folder {path} and run again"
        )


def _tail(body: bytes) -> str:
    return f',\n "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'
