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

__all__ = ["Record", "Tally", "read_account"]

_SECONDS = 1.0
_SAMPLES = 10
"""Rejected candidates that are kept per cell and reason."""
_SHOWN = 2
"""Rejected candidates per reason in a report."""
_STATUS, _REJECTED = "status.json", "rejected.jsonl"


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
    """Files in a folder: `status.json` (replaced as a whole), `rows.jsonl` and `rejected.jsonl` (one line per row)."""

    def __init__(self, folder: Path, cells: Mapping[Cell, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.cells = {cell: Tally(wanted) for cell, wanted in cells.items()}
        self.given = 0
        self._written = 0.0
        self._rows = (folder / "rows.jsonl").open("w", encoding="utf-8", newline="\n")
        self._rejected = (folder / _REJECTED).open("w", encoding="utf-8", newline="\n")

    def accept(self, cell: Cell, row: Mapping[str, Any] | None) -> None:
        """Count an accepted row, and write it; None counts a row that is left out because only pairs are given."""
        self.cells[cell].accepted += 1
        if row is not None:
            self.given += 1
            self._rows.write(json.dumps(row, ensure_ascii=False) + "\n")

    def reject(self, cell: Cell, reason: str, candidate: Mapping[str, Any]) -> None:
        """Count a rejection; write the candidate if it is among the first of its cell and reason."""
        tally = self.cells[cell]
        tally.rejected[reason] += 1
        if tally.rejected[reason] <= _SAMPLES:
            line = {"cell": str(cell), "reason": reason, **candidate}
            self._rejected.write(json.dumps(line, ensure_ascii=False) + "\n")

    def write_status(self, state: str, *, now: bool = False) -> None:
        """Replace the status, at most once per second unless `now`."""
        if not now and time.monotonic() - self._written < _SECONDS:
            return
        self._written = time.monotonic()
        self._rows.flush()
        self._rejected.flush()
        cells = [{"cell": str(cell), **vars(tally)} for cell, tally in self.cells.items()]
        new = self._folder / f"{_STATUS}.new"
        new.write_text(json.dumps({"state": state, "written": time.time(), "cells": cells}), encoding="utf-8")
        new.replace(self._folder / _STATUS)

    def close(self, state: str) -> None:
        """Write the last status; delete the rows of a complete generation, which are in the text by then."""
        self.write_status(state, now=True)
        self._rejected.close()
        self._rows.close()
        if state == "complete":
            (self._folder / "rows.jsonl").unlink(missing_ok=True)


def read_account(folder: Path) -> Mapping[str, Any] | None:
    """Return the sums over all cells for a report, with samples of rejected candidates; None without a generation."""
    if not (folder / _STATUS).exists():
        return None
    cells = json.loads((folder / _STATUS).read_text(encoding="utf-8"))["cells"]
    names = {"rows": "accepted", "requests": "asked"} | {
        name: name for name in ("tokens_in", "tokens_out", "picodollars")
    }
    samples, shown = [], Counter[str]()
    with (folder / _REJECTED).open(encoding="utf-8") as lines:
        for candidate in map(json.loads, lines):
            reason = candidate["reason"]
            shown[reason] += 1
            if shown[reason] <= _SHOWN:
                text = f"{candidate['error']}\n\n{candidate['answer']}".strip()
                samples.append({"reason": reason, "id": candidate["id"], "text": text})
    return {
        **{name: sum(cell[key] for cell in cells) for name, key in names.items()},
        "rejected": dict(sum((Counter(cell["rejected"]) for cell in cells), Counter[str]()).most_common()),
        "samples": samples,
    }
