"""Append-only records: each is on disk, as a line of JSON with its digest, before the next one counts.

Only the records' offsets are held in memory. Damaged lines are dropped without affecting other records.
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


class _Record(Protocol):
    """A dataclass of plain fields, one of them the id."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...


Record = TypeVar("Record", bound=_Record)


@contextmanager
def journal(
    path: Path, kind: type[Record], say: Callable[[str], None], *, outdated: Callable[[Record], bool] | None = None
) -> Iterator[Journal[Record]]:
    """Open the journal in a file, creating it if necessary.

    A half-written last line of a killed process is cut off. Other damaged lines are removed, with a message.

    Args:
        path: the file.
        kind: class of the records: a dataclass of plain fields with an `id`.
        say: shows a message to the user.
        outdated: selects records of earlier processes to remove, so that they are made again. None keeps all.
    """
    kdtool.commit(path.parent, path, growing=True)
    pieces, damaged = _pieces(path, kind, outdated)
    if damaged:
        say(f"{path}: removed {kdtool.count_of(damaged, 'damaged line')}; only these records are made again")
    opened = Journal(path, kind, _rewrite(path, pieces))
    try:
        yield opened
    finally:
        opened.close()


def sort_journal(path: Path, kind: type[_Record]) -> None:
    """Put the records of a closed journal in the order of their ids: its bytes then do not show when each one came.

    Raises:
        OSError: the file cannot be read or written.
    """
    pieces, _ = _pieces(path, kind, None)
    latest = {piece.name: piece for piece in pieces}
    _rewrite(path, [latest[name] for name in sorted(latest)])


class Journal(Mapping[str, Record], Generic[Record]):
    """Records of an open file by their `id`; the last one wins if several share an id."""

    def __init__(self, path: Path, kind: type[Record], places: dict[str, int]) -> None:
        self._path = path
        self._kind = kind
        self._places = places
        self._file = path.open("a+b")

    def add(self, record: Record) -> None:
        """Append a record; it survives a power failure."""
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(kdtool.seal_line(asdict(record)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._places[record.id] = offset

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __getitem__(self, name: str) -> Record:
        """Return the record of an id.

        Raises:
            KeyError: the id is unknown.
            StorageError: another process wrote into the file.
        """
        self._file.seek(self._places[name])
        record = _record(self._file.readline(), self._kind)
        if record is None:
            raise kdtool.StorageError(
                f"{self._path} changed while it was read; end other runs in this folder, run again"
            )
        return record

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Piece(NamedTuple):
    """A valid line of a file: its record's id, offset and bytes."""

    name: str
    place: int
    size: int


def _pieces(path: Path, kind: type[Record], outdated: Callable[[Record], bool] | None) -> tuple[list[_Piece], int]:
    """Return the valid, current records of a file, and the number of damaged lines."""
    pieces, damaged, offset = list[_Piece](), 0, 0
    with path.open("a+b") as file:
        file.seek(0)
        for line in file:
            record = _record(line, kind)
            if record is None:
                damaged += line.endswith(b"\n")
            elif outdated is None or not outdated(record):
                pieces.append(_Piece(record.id, offset, len(line)))
            offset += len(line)
    return pieces, damaged


def _rewrite(path: Path, pieces: list[_Piece]) -> dict[str, int]:
    """Atomically make a file of these pieces, and return their new offsets."""
    starts = [end - piece.size for end, piece in zip(accumulate(piece.size for piece in pieces), pieces, strict=True)]
    if starts != [piece.place for piece in pieces] or sum(piece.size for piece in pieces) != path.stat().st_size:
        made = path.with_name(f"{path.name}.new")
        with path.open("rb") as file, made.open("wb") as other:
            for piece in pieces:
                file.seek(piece.place)
                other.write(file.read(piece.size))
            other.flush()
            os.fsync(other.fileno())
        made.replace(path)
    return {piece.name: start for piece, start in zip(pieces, starts, strict=True)}


def _record(line: bytes, kind: type[Record]) -> Record | None:
    """Parse a line; None if it is incomplete, damaged, or a record of another class."""
    content = kdtool.unseal_line(line)
    try:
        record = kind(**content) if content is not None else None
    except TypeError:
        record = None
    return record if record is not None and isinstance(record.id, str) else None
