"""Find the hand-written source files of a folder. The corpus calls this once, for its identity and its examples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kdtool

__all__ = ["NOT_FOR_LEARNING", "SourceFile", "find_files"]

NOT_OF_THE_PROJECT = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
"""Folders that are never read, in addition to those whose name begins with a dot."""
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
"""Matches near the start of generated files."""


@dataclass(frozen=True)
class SourceFile:
    """A file: its path below the folder with slashes, its location, and the SHA-256 of its text."""

    id: str
    path: Path
    digest: str

    def text(self) -> str:
        """Return the text, lines ended by a line feed.

        Raises:
            kdtool.StorageError: the file has changed since it was found.
        """
        text = _read(self.path)
        if text is None or _digest(text) != self.digest:
            raise kdtool.StorageError(f"{self.path} changed while the run was reading it; start the run again")
        return text


def find_files(
    folder: Path, pattern: str, minimum_bytes: int, maximum_bytes: int, skipped: frozenset[str], unread: list[str]
) -> Iterator[SourceFile]:
    """Yield the files that qualify, sorted by id: the first of several with the same text, and none below a `skipped` name.

    Ids of files that cannot be read, or whose name or text is not UTF-8, are appended to `unread`.

    Raises:
        kdtool.UsageError: the folder does not exist, or no file in it qualifies.
    """
    if not folder.is_dir():
        raise kdtool.UsageError(
            f"python-source.folder: {folder} is not a directory; name one that contains Python files"
        )
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
    """Return whether a name is UTF-8: Python decodes others with unpaired surrogates, which cannot be stored."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path) -> str | None:
    """Return a file's text, or None if it cannot be read as UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return text.replace("\r\n", "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
