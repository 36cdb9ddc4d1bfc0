"""Room on the disk that is kept for answers under way: they are paid for, and must be recorded when the disk is full."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Spare"]

_BYTES = 16 * 2**20
"""A thousand long answers, with the pages that they change."""
_BLOCK = 2**16


class Spare:
    """A file next to the ledger that exists as long as the ledger is open.

    Raises:
        OSError: the disk has no room for it.
    """

    def __init__(self, ledger: Path) -> None:
        self._path = ledger.with_name(ledger.name + ".spare")
        try:
            with self._path.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, _BYTES)
                else:
                    for _ in range(_BYTES // _BLOCK):
                        file.write(bytes(_BLOCK))
        except OSError:
            self.free()
            raise

    def free(self) -> bool:
        """Delete the file; return whether it was there."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
