"""Records that outlive the process: each is on disk, a line of JSON with its digest, before the next one counts.

In memory is only where each record stands. What is not as it was written is left out, and costs no other record.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import kdtool

__all__ = ["Journal", "journal"]


class _Record(Protocol):
    """A dataclass of plain fields, one of them the id."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...


Record = TypeVar("Record", bound=_Record)


@contextmanager
def journal(
    path: Path,
    kind: type[Record],
    say: Callable[[str], None],
    *,
    outdated: Callable[[Record], bool] | None = None,
) -> Iterator[Journal[Record]]:
    """Open the journal in a file, which is made if it is not there.

    A line that a killed process left half written is cut off. Others that are no record are taken out, and that is said.

    Args:
        path: the file.
        kind: what the records are: a dataclass of plain fields with an `id`.
        say: tells the user how many lines are damaged.
        outdated: picks records of an earlier process that are to be made again: they are taken out. None keeps all.
    """
    kdtool.commit(path.parent, path, growing=True)
    pieces, damaged = _pieces(path, kind, outdated)
    if damaged:
        lines = "1 line is damaged and was" if damaged == 1 else f"{damaged:,} lines are damaged and were"
        say(f"{path}: {lines} taken out; what is missing now is made again, all else is kept")
    opened = Journal(path, kind, _rewritten(path, pieces))
    try:
        yield opened
    finally:
        opened.close()


class Journal(Mapping[str, Record], Generic[Record]):
    """The records of an open file by their `id`; of several with one id, the last."""

    def __init__(self, path: Path, kind: type[Record], places: dict[str, int]) -> None:
        self._path = path
        self._kind = kind
        self._places = places
        self._file = path.open("a+b")

    def add(self, record: Record) -> None:
        """Keep a record, also through a failing of power."""
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(kdtool.seal_line(asdict(record)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._places[record.id] = place

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __getitem__(self, name: str) -> Record:
        """Return the record of an id.

        Raises:
            KeyError: there is none.
            StorageError: somebody else wrote into the file.
        """
        self._file.seek(self._places[name])
        found = _record(self._file.readline(), self._kind)
        if found is None:
            raise kdtool.StorageError(f"{self._path} changed while it was read")
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Piece(NamedTuple):
    """A line of a file that is a record: its id, where it begins, and its bytes."""

    name: str
    place: int
    size: int


def _pieces(path: Path, kind: type[Record], outdated: Callable[[Record], bool] | None) -> tuple[list[_Piece], int]:
    """Return the records of a file that are wanted, and how many of its whole lines are none."""
    pieces, damaged, place = list[_Piece](), 0, 0
    with path.open("a+b") as file:
        file.seek(0)
        for line in file:
            found = _record(line, kind)
            if found is None:
                damaged += line.endswith(b"\n")
            elif outdated is None or not outdated(found):
                pieces.append(_Piece(found.id, place, len(line)))
            place += len(line)
    return pieces, damaged


def _rewritten(path: Path, pieces: list[_Piece]) -> dict[str, int]:
    """Leave nothing but these pieces in a file, all of them at any moment, and return where each is then."""
    if sum(piece.size for piece in pieces) < path.stat().st_size:
        made = path.with_name(f"{path.name}.new")
        with path.open("rb") as file, made.open("wb") as other:
            for piece in pieces:
                file.seek(piece.place)
                other.write(file.read(piece.size))
            other.flush()
            os.fsync(other.fileno())
        made.replace(path)
    ends = accumulate(piece.size for piece in pieces)
    return {piece.name: end - piece.size for piece, end in zip(pieces, ends, strict=True)}


def _record(line: bytes, kind: type[Record]) -> Record | None:
    """Return the record that a line holds; None where it was not written to its end, is damaged, or is of another kind."""
    content = kdtool.unseal_line(line)
    try:
        found = kind(**content) if content is not None else None
    except TypeError:
        found = None
    if found is None:
        return None
    return found if isinstance(found.id, str) else None
