"""A sweep's files: `sweep.json` for machines, `sweep.md` with the tables that the terminal shows, and `sweep.html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from kdtool_command_sweep.folder import write
from kdtool_command_sweep.page import as_html
from kdtool_command_sweep.points import SweepPoint
from kdtool_command_sweep.results import SweepResults
from kdtool_command_sweep.sections import remarks_of, sections_of

__all__ = ["HTML", "JSON", "MARKDOWN", "as_json", "as_markdown", "write_sweep"]

HTML, JSON, MARKDOWN = "sweep.html", "sweep.json", "sweep.md"
_PLAIN: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="strings"))
"""Writes infinite numbers as "Infinity"; JSON has none."""


def write_sweep(sweep: SweepResults) -> None:
    """Write `sweep.json`, `sweep.md` and `sweep.html` into the sweep's folder.

    Raises:
        StorageError: they cannot be written.
    """
    write(sweep.folder / JSON, _PLAIN.dump_json(as_json(sweep), indent=1).decode() + "\n")
    write(sweep.folder / MARKDOWN, as_markdown(sweep))
    write(sweep.folder / HTML, as_html(sweep))


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
    parts = [f"# Sweep of {sweep.name}"]
    for section in sections_of(sweep):
        parts += [f"## {section.title}"] if section.title else []
        parts += [_table(section.head, section.rows), *filter(None, [section.note])]
    return "\n\n".join([*parts, *remarks_of(sweep)]) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with columns in line; cells are cut to their first line, and escaped."""
    shown = [head, *([cell.partition("\n")[0].replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in shown]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


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
