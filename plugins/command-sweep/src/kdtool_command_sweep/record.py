"""A sweep's files: `sweep.json` for machines, and `sweep.md`, the tables that the terminal shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdtool._text.markdown import markdown_table, number
from pydantic import ConfigDict, TypeAdapter

from kdtool_command_sweep.folder import write
from kdtool_command_sweep.points import SweepPoint
from kdtool_command_sweep.table import SweepCell, SweepRow, SweepTable

__all__ = ["JSON", "MARKDOWN", "SweepResults", "as_json", "as_markdown", "write_sweep"]

JSON, MARKDOWN = "sweep.json", "sweep.md"
_PLAIN: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="strings"))
"""Writes infinite numbers as "Infinity"; JSON has none."""
_INTERVALS = "Numbers are means over seeds, with 95 % intervals over seeds and items."


@dataclass(frozen=True)
class SweepResults:
    """The results of a sweep.

    Attributes:
        name: the recipe's name.
        folder: holds `sweep.json`, `sweep.md`, and a folder for each point's run.
        grid: the keys that vary, with their values.
        points: in the order in which they ran.
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
        """0 where every point is done, else the exit code of the first that failed."""
        return next((point.exit_code for point in self.points if point.status == "failed"), 0)


def write_sweep(sweep: SweepResults) -> None:
    """Write `sweep.json` and `sweep.md` into the sweep's folder.

    Raises:
        StorageError: they cannot be written.
    """
    write(sweep.folder / JSON, _PLAIN.dump_json(as_json(sweep), indent=1).decode() + "\n")
    write(sweep.folder / MARKDOWN, as_markdown(sweep))


def as_json(sweep: SweepResults) -> dict[str, Any]:
    """Return the sweep as plain data; paths are relative to its folder."""
    return {
        "format": 1,
        "name": sweep.name,
        "grid": sweep.grid,
        "points": [_point(point, sweep.folder) for point in sweep.points],
        "tables": [_PLAIN.dump_python(table, mode="json") for table in sweep.tables],
        "caution": sweep.caution,
    }


def as_markdown(sweep: SweepResults) -> str:
    """Return the tables as Markdown that is aligned, so that it reads well in a terminal, too."""
    parts = [
        f"# Sweep of {sweep.name}",
        markdown_table(["point", "result", "report"], [_outcome(p, sweep) for p in sweep.points]),
    ]
    for table in sweep.tables:
        direction = "higher" if table.higher_is_better else "lower"
        parts.append(f"## {table.measurement} ({table.unit}; {direction} is better)")
        ranked = [f"{table.ranked_by} among the points"] if any(row.standing for row in table.rows) else []
        parts.append(
            markdown_table(["point", *table.columns, *ranked], [_cells(row, table, ranked) for row in table.rows])
        )
        parts += [f"{table.note[0].upper()}{table.note[1:]}."] if table.note else []
    cells = (cell for table in sweep.tables for row in table.rows for cell in row.cells.values())
    parts += [_INTERVALS] if any(cell.low is not None for cell in cells) else []
    return "\n\n".join([*parts, *([sweep.caution] if sweep.caution else [])]) + "\n"


def _point(point: SweepPoint, folder: Path) -> dict[str, Any]:
    results = point.results
    return {
        "label": point.label,
        "values": point.values,
        "folder": point.folder.relative_to(folder).as_posix(),
        "status": point.status,
        "reused": point.reused,
        "error": point.error,
        "verdict": results.verdict if results else "",
        "report": results.report.relative_to(folder).as_posix() if results and results.report else None,
    }


def _outcome(point: SweepPoint, sweep: SweepResults) -> list[str]:
    results = point.results
    if results is None:
        error = " ".join(point.error.split())  # a cell has one line, and what is wrong may stand in the second
        return [point.label, f"{point.status}: {error}".removesuffix(": "), ""]
    report = results.report or point.folder
    done = "done before" if point.reused else "done"
    return [point.label, done, report.relative_to(sweep.folder).as_posix()]


def _cells(row: SweepRow, table: SweepTable, ranked: Sequence[str]) -> list[str]:
    return [row.point, *(_cell(row.cells.get(column)) for column in table.columns), *(row.standing for _ in ranked)]


def _cell(cell: SweepCell | None) -> str:
    if cell is None:
        return ""
    bounds = "" if cell.low is None or cell.high is None else f" ({number(cell.low)} to {number(cell.high)})"
    return f"{number(cell.value)}{bounds}"
