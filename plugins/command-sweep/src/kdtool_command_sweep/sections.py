"""The tables of a sweep as text, for Markdown and HTML alike: a column for each swept key, then the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdtool._text.markdown import number, number_range

from kdtool_command_sweep.points import SweepPoint
from kdtool_command_sweep.results import SweepResults
from kdtool_command_sweep.table import SweepCell, SweepTable

__all__ = ["REPORT", "Section", "remarks_of", "sections_of"]

REPORT = "report"
"""The column with paths of reports, relative to the sweep's folder."""
_INTERVALS = "Numbers are means over seeds, with 95 % intervals over seeds and items."


@dataclass(frozen=True)
class Section:
    """One table with its title and a remark below it; the first `keys` columns are swept keys."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    keys: int
    note: str = ""


def sections_of(sweep: SweepResults) -> list[Section]:
    """Return a table of how every point ended, in the order of their runs, and one for each measurement."""
    keys = list(sweep.grid)
    labelled = {point.label: [_value(point.values[key]) for key in keys] for point in sweep.points}
    ended = [[*labelled[point.label], *_outcome(point, sweep)] for point in sweep.points]
    measured = [_measurement(table, keys, labelled) for table in sweep.tables]
    return [Section("", [*keys, "result", REPORT], ended, len(keys)), *measured]


def remarks_of(sweep: SweepResults) -> list[str]:
    """Return the remarks that apply to all tables."""
    cells = (cell for table in sweep.tables for row in table.rows for cell in row.cells.values())
    remarks = [_INTERVALS] if any(cell.low is not None for cell in cells) else []
    return [*remarks, *filter(None, [sweep.caution])]


def _measurement(table: SweepTable, keys: Sequence[str], labelled: Mapping[str, Sequence[str]]) -> Section:
    title = f"{table.measurement} ({table.unit}; {'higher' if table.higher_is_better else 'lower'} is better)"
    ranked = [f"{table.ranked_by} among the points"] if any(row.standing for row in table.rows) else []
    rows = [
        [
            *labelled[row.point],
            *(_cell(row.cells.get(column)) for column in table.columns),
            *(row.standing for _ in ranked),
        ]
        for row in table.rows
    ]
    note = f"{table.note[0].upper()}{table.note[1:]}." if table.note else ""
    return Section(title, [*keys, *table.columns, *ranked], rows, len(keys), note)


def _outcome(point: SweepPoint, sweep: SweepResults) -> list[str]:
    results = point.results
    if results is None:
        error = " ".join(point.error.split())  # a cell has one line, and what is wrong may stand in the second
        return [f"{point.status}: {error}".removesuffix(": "), ""]
    report = results.report or point.folder
    return ["done before" if point.reused else "done", report.relative_to(sweep.folder).as_posix()]


def _cell(cell: SweepCell | None) -> str:
    if cell is None:
        return ""
    bounds = number_range(cell.low, cell.high)
    return f"{number(cell.value)} ({bounds})" if bounds else number(cell.value)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
