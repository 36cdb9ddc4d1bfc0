"""The seal of a ledger: a small file next to it that shows whether commits are missing from the database.

A write-ahead log that is lost or cut after a kill leaves a database that is valid and older: only another file can show it.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import kdtool

__all__ = ["Seal", "Sealed", "read_seal", "seal_of"]

_SLOT = 512
"""Bytes of one record, a sector of a disk; records take turns in two slots, so that a torn one leaves the other."""
_sync = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True)
class Sealed:
    """Number of commits to a ledger, and the picodollars that it has spent and reserved."""

    commits: int = 0
    picodollars: int = 0


class Seal:
    """The open seal of a ledger.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, ledger: Path) -> None:
        self._file = os.open(seal_of(ledger), os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)

    def write(self, sealed: Sealed, *, sync: bool = True) -> None:
        """Replace the older record; it survives a killed process, and a power cut with `sync`."""
        os.lseek(self._file, _SLOT * (sealed.commits % 2), os.SEEK_SET)
        os.write(self._file, kdtool.seal_line(asdict(sealed)).ljust(_SLOT))
        if sync:
            _sync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def seal_of(ledger: Path) -> Path:
    """Return the path of a ledger's seal."""
    return ledger.with_name(ledger.name + ".seal")


def read_seal(ledger: Path) -> Sealed | None:
    """Return the latest record of a ledger's seal; None if there is none that is whole.

    Raises:
        OSError: it cannot be read.
    """
    try:
        content = seal_of(ledger).read_bytes()
    except FileNotFoundError:
        return None
    slots = (content[start : start + _SLOT].rstrip(b" ") for start in range(0, 2 * _SLOT, _SLOT))
    records = [Sealed(**fields) for fields in map(kdtool.unseal_line, slots) if fields is not None]
    return max(records, key=lambda sealed: sealed.commits, default=None)
