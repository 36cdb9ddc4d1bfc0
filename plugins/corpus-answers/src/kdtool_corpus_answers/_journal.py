"""A file of answers that outlives the process: each is on disk before the next one counts.

In memory is only where each answer stands, and which are refusals. A line that a killed process left half written is cut
off, and its request is asked again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import kdtool

__all__ = ["Journal"]


class Journal:
    """Answers by the ids of their requests; a context manager that opens and closes the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, int] = {}
        self._refused: set[str] = set()

    def __enter__(self) -> Journal:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b")
        self._file.seek(0)
        whole = 0
        for line in self._file:
            found = _read(line)
            if found is None:
                break
            self._remember(found, whole)
            whole += len(line)
        self._file.truncate(whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def add(self, answer: kdtool.TextAnswer) -> None:
        """Keep an answer, also through a failing of power."""
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(asdict(answer)).encode("ascii") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._remember(asdict(answer), place)

    def refused(self, name: str) -> bool:
        """Return whether the answer to a request is there, and is a refusal."""
        return name in self._refused

    def get(self, name: str) -> kdtool.TextAnswer | None:
        """Return the answer to a request, None if there is none."""
        place = self._places.get(name)
        if place is None:
            return None
        self._file.seek(place)
        found = _read(self._file.readline())
        if found is None:
            raise kdtool.StorageError(f"{self._path} changed while it was read")
        return kdtool.TextAnswer(**found)

    def _remember(self, answer: dict[str, Any], place: int) -> None:
        self._places[answer["id"]] = place
        if answer["finish"] == "refused":
            self._refused.add(answer["id"])


def _read(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("id"), str) and "finish" in found else None
