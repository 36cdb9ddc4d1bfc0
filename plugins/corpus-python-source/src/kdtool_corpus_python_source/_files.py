"""Files of a folder that are hand-written source. Called by the corpus once, for its identity and its examples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kdtool

__all__ = ["NOT_FOR_LEARNING", "SourceFile", "find_files"]

NOT_OF_THE_PROJECT = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
"""Folders that are never read, like those whose name begins with a dot."""
NOT_FOR_LEARNING = frozenset(
    {
        *("test", "tests", "idle_test"),  # they repeat what they test
        *("encodings", "pydoc_data", "_bundled"),  # tables
        *("idlelib", "lib2to3", "turtledemo", "__phello__"),  # applications and demonstrations
    }
)
"""Further folders of the standard library that are left out."""
GENERATED = re.compile(
    r"auto-?generated|automatically generated|generated (from|by|and used by)|do not edit", re.IGNORECASE
)
"""Found near the start of files that a program wrote."""


@dataclass(frozen=True)
class SourceFile:
    """A file: its path below the folder with slashes, where it is, and the SHA-256 of its text."""

    id: str
    path: Path
    digest: str

    def text(self) -> str:
        """Return the text, lines ended by a line feed.

        Raises:
            kdtool.StorageError: it is not what it was when the files were looked for.
        """
        text = _read(self.path)
        if text is None or _digest(text) != self.digest:
            raise kdtool.StorageError(f"{self.path} changed while the run was reading it; start the run again")
        return text


def find_files(
    folder: Path, pattern: str, minimum_bytes: int, maximum_bytes: int, skipped: frozenset[str], unread: list[str]
) -> Iterator[SourceFile]:
    """Yield the files to be taken, sorted by id; of files with the same text only the first. None below a `skipped` name.

    `unread` gets the ids of those that cannot be read, or whose name or text is not UTF-8.

    Raises:
        kdtool.UsageError: there is no such folder, or no file to be taken.
    """
    if not folder.is_dir():
        raise kdtool.UsageError(f"python-source.folder: {folder} is not a directory; give one that holds Python files")
    seen: set[str] = set()
    for identifier, path in sorted((path.relative_to(folder).as_posix(), path) for path in folder.glob(pattern)):
        if (
            _is_skipped(identifier, skipped)
            or not path.is_file()
            or not minimum_bytes <= path.stat().st_size <= maximum_bytes
        ):
            continue
        text = _read(path) if _is_text(identifier) else None
        if text is None:
            unread.append(identifier)
            continue
        if GENERATED.search(text, 0, 1000):
            continue
        digest = _digest(text)
        if digest not in seen:
            seen.add(digest)
            yield SourceFile(identifier, path, digest)
    if not seen:
        raise kdtool.UsageError(
            f"python-source: no file below {folder} matches {pattern!r} with {minimum_bytes} to {maximum_bytes} bytes; "
            "set folder, glob, minimum_bytes or maximum_bytes"
        )


def _is_skipped(identifier: str, skipped: frozenset[str]) -> bool:
    return any(part in NOT_OF_THE_PROJECT or part in skipped or part.startswith(".") for part in identifier.split("/"))


def _is_text(name: str) -> bool:
    """Say whether a name is UTF-8: Python writes the bytes of others as single surrogates, which nothing can store."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path) -> str | None:
    """Return a file's text, or None where it cannot be read as UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return text.replace("\r\n", "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
