"""The record of a generation, for the user and for `kdtool data` in another process: status, rows so far, rejections."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtool_corpus_instruct._cells import Cell

__all__ = ["Record", "Tally"]

_SECONDS = 1.0
_SAMPLES = 10
"""Rejected candidates that are kept of each cell and reason."""


@dataclass
class Tally:
    """Counts of a cell's requests by their outcome."""

    wanted: int
    accepted: int = 0
    asked: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    picodollars: int = 0
    closed: str = ""
    """The limit that ended the cell before it was full."""
    rejected: Counter[str] = field(default_factory=Counter)


class Record:
    """Files in a folder: `status.json` (replaced as a whole), `rows.jsonl` and `rejected.jsonl` (a line each)."""

    def __init__(self, folder: Path, cells: Mapping[Cell, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.cells = {cell: Tally(wanted) for cell, wanted in cells.items()}
        self.given = 0
        self._written = 0.0
        self._rows = (folder / "rows.jsonl").open("w", encoding="utf-8", newline="\n")
        self._rejected = (folder / "rejected.jsonl").open("w", encoding="utf-8", newline="\n")

    def accept(self, cell: Cell, row: Mapping[str, Any] | None) -> None:
        """Count an accepted row, and write it; None for one that is left out, since only pairs are given."""
        self.cells[cell].accepted += 1
        if row is not None:
            self.given += 1
            self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")

    def reject(self, cell: Cell, reason: str, candidate: Mapping[str, Any]) -> None:
        """Count a rejection, and write the first ones of each cell and reason."""
        tally = self.cells[cell]
        tally.rejected[reason] += 1
        if tally.rejected[reason] <= _SAMPLES:
            line = {"cell": str(cell), "reason": reason, **candidate}
            self._rejected.write(json.dumps(line, ensure_ascii=False) + "\n")

    def write_status(self, state: str, *, now: bool = False) -> None:
        """Replace the status, at most once a second unless `now`."""
        if not now and time.monotonic() - self._written < _SECONDS:
            return
        self._written = time.monotonic()
        self._rows.flush()
        self._rejected.flush()
        cells = [{"cell": str(cell), **vars(tally)} for cell, tally in self.cells.items()]
        new = self._folder / "status.json.new"
        new.write_text(json.dumps({"state": state, "written": time.time(), "cells": cells}), encoding="utf-8")
        new.replace(self._folder / "status.json")

    def close(self, state: str) -> None:
        """Write the last status; the rows of a complete generation are in the text, and are deleted here."""
        self.write_status(state, now=True)
        self._rejected.close()
        self._rows.close()
        if state == "complete":
            (self._folder / "rows.jsonl").unlink(missing_ok=True)
