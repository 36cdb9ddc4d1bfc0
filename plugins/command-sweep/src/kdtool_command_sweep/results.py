"""The results of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool_command_sweep.points import SweepPoint
from kdtool_command_sweep.table import SweepTable

__all__ = ["SweepResults"]


@dataclass(frozen=True)
class SweepResults:
    """The results of a sweep.

    Attributes:
        name: the recipe's name.
        folder: contains `sweep.json`, `sweep.md`, `sweep.html`, and a folder for each point's run.
        grid: the keys that vary, with their values.
        points: in the order of their runs.
        tables: one for each measurement.
        caution: how far to trust the best point.
    """

    name: str
    folder: Path
    grid: Mapping[str, Sequence[Any]]
    points: tuple[SweepPoint, ...]
    tables: tuple[SweepTable, ...]
    caution: str = ""

    @property
    def exit_code(self) -> int:
        """0 if every point is done, else the exit code of the first that failed."""
        return next((point.exit_code for point in self.points if point.status == "failed"), 0)
