"""`sweep.html`: the tables of a sweep as a page that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from kdtool_command_sweep.results import SweepResults
from kdtool_command_sweep.sections import REPORT, Section, remarks_of, sections_of

__all__ = ["as_html"]

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
        *map(_section, sections_of(sweep)),
        *(f"<p>{escape(remark)}</p>" for remark in remarks_of(sweep)),
    ]
    return "\n".join(parts) + "\n</html>\n"


def _section(section: Section) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.head)
    title = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    rows = "\n".join(_row(section, row) for row in section.rows)
    return f"<section>{title}\n<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>{note}</section>"


def _row(section: Section, row: Sequence[str]) -> str:
    cells = []
    for number, (name, cell) in enumerate(zip(section.head, row, strict=True)):
        text = f'<a href="{quote(cell)}">{escape(cell)}</a>' if name == REPORT and cell else escape(cell)
        cells.append(f'<th scope="row">{text}</th>' if number < section.keys else f"<td>{text}</td>")
    best = ' class="best"' if row[-1] in {"best", "best value"} else ""
    return f"<tr{best}>{''.join(cells)}</tr>"
