"""Files of a sweep: `sweep.json` for machines, `sweep.md` as the terminal shows it, and `sweep.html`.

The tables are the same in Markdown and HTML: a column for each swept key, then the results. The page loads nothing from
elsewhere. One process at a time works in the sweep's folder, and its files are never half written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kdtool
from filelock import FileLock, Timeout
from kdtool._text.terminal import number, number_range
from pydantic import ConfigDict, TypeAdapter

from kdtool_essentials.sweep.points import SweepPoint
from kdtool_essentials.sweep.results import SweepCell, SweepResults, SweepTable

HTML, JSON, MARKDOWN = "sweep.html", "sweep.json", "sweep.md"
_PLAIN: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="strings"))
"""Writes infinite numbers as "Infinity"; JSON has none."""


def write_sweep(sweep: SweepResults) -> None:
    """Write `sweep.json`, `sweep.md` and `sweep.html` into the sweep's folder.

    Raises:
        StorageError: they cannot be written.
    """
    write_file(sweep.folder / JSON, _PLAIN.dump_json(as_json(sweep), indent=1).decode() + "\n")
    write_file(sweep.folder / MARKDOWN, as_markdown(sweep))
    write_file(sweep.folder / HTML, as_html(sweep))


def as_json(sweep: SweepResults) -> dict[str, Any]:
    """Return the sweep as plain data; paths are relative to its folder."""
    return {
        "format": 1,
        "name": sweep.name,
        "grid": sweep.grid,
        "points": [_point_record(point, sweep.folder) for point in sweep.points],
        "tables": [_PLAIN.dump_python(table, mode="json") for table in sweep.tables],
        "caution": sweep.caution,
    }


def as_markdown(sweep: SweepResults) -> str:
    """Return the tables as Markdown that is aligned, so that it reads well in a terminal, too."""
    parts = [f"# Sweep of {sweep.name}"]
    for section in sections_of(sweep):
        parts += [f"## {section.title}"] if section.title else []
        parts += [_markdown_table(section.head, section.rows), *filter(None, [section.note])]
    return "\n\n".join([*parts, *remarks_of(sweep)]) + "\n"


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with columns in line; cells are cut to their first line, and escaped."""
    shown = [head, *([cell.partition("\n")[0].replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in shown]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _point_record(point: SweepPoint, folder: Path) -> dict[str, Any]:
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
    labelled = {point.label: [_value_text(point.values[key]) for key in keys] for point in sweep.points}
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
            *(_cell_text(row.cells.get(column)) for column in table.columns),
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


def _cell_text(cell: SweepCell | None) -> str:
    if cell is None:
        return ""
    bounds = number_range(cell.low, cell.high)
    return f"{number(cell.value)} ({bounds})" if bounds else number(cell.value)


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


_STYLE = """
:root { --page: #f7f7f5; --card: #fff; --ink: #1b2126; --muted: #59636e; --line: #dfe2e6; --best: #e4f3ea; }
@media (prefers-color-scheme: dark) {
  :root { --page: #131619; --card: #1b1f23; --ink: #e7eaed; --muted: #a0a9b3; --line: #31373e; --best: #173226; }
}
body { margin: 0 auto; max-width: 1120px; padding: 24px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 4px 20px 12px;
  margin: 0 0 16px; overflow-x: auto; }
h2 { font-size: 1.1rem; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; margin: 8px 0; }
th, td { text-align: left; vertical-align: top; padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line);
  font-weight: 400; }
thead th, tbody th { font-weight: 600; }
tr.best { background: var(--best); }
a { color: inherit; }
p { color: var(--muted); max-width: 80ch; }
"""


def as_html(sweep: SweepResults) -> str:
    """Return the page."""
    title = escape(f"Sweep of {sweep.name}")
    parts = [
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>',
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n<h1>{title}</h1>',
        *map(_html_section, sections_of(sweep)),
        *(f"<p>{escape(remark)}</p>" for remark in remarks_of(sweep)),
    ]
    return "\n".join(parts) + "\n</html>\n"


def _html_section(section: Section) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.head)
    title = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    rows = "\n".join(_html_row(section, row) for row in section.rows)
    return f"<section>{title}\n<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>{note}</section>"


def _html_row(section: Section, row: Sequence[str]) -> str:
    cells = []
    for number, (name, cell) in enumerate(zip(section.head, row, strict=True)):
        text = f'<a href="{quote(cell)}">{escape(cell)}</a>' if name == REPORT and cell else escape(cell)
        cells.append(f'<th scope="row">{text}</th>' if number < section.keys else f"<td>{text}</td>")
    best = ' class="best"' if row[-1] in {"best", "best value"} else ""
    return f"<tr{best}>{''.join(cells)}</tr>"


_SECONDS = 0.5
"""Seconds to wait for the folder."""


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold the folder; the lock of a killed process is free by itself.

    Raises:
        LockedError: another sweep works in it.
        StorageError: it cannot be written.
    """
    lock = FileLock(folder / ".lock")
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_SECONDS)
        except Timeout as error:
            text = f"another sweep works in {folder}; wait for it, or choose another --out"
            raise kdtool.LockedError(text) from error
    try:
        yield
    finally:
        lock.release()


def write_file(path: Path, text: str) -> None:
    """Write a temporary file next to `path` and rename it.

    Raises:
        StorageError: it cannot be written.
    """
    beside = path.with_name(f"{path.name}.writing")
    with _storage_errors(path.parent):
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "make room or choose another --out, then run the same command again; what is finished is kept"
        raise kdtool.StorageError(f"cannot write {folder}: {error.strerror or error}; {remedy}") from error
