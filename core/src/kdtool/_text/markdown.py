"""Tables in Markdown, as the command line prints them and files keep them, or in HTML, and the numbers in their cells."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isinf


def number(value: float) -> str:
    """Return a value as tables show it: whole where it is large, else with four digits."""
    if isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"


def number_range(low: float | None, high: float | None) -> str:
    """Return the ends of an interval, `1 to 2`; "" where there is none."""
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def signed_difference(value: float, *, relative: bool) -> str:
    """Return a difference as tables and sentences show it: with its sign, a relative one in percent."""
    shown = 100 * value if relative else value
    if isinf(shown):
        return "+∞" if shown > 0 else "-∞"
    if relative:
        return f"{value:+.1%}" if abs(shown) < 1e6 else f"{shown:+.3g}%"
    return f"{value:+.3g}"


def measurement_title(name: str, unit: str, *, higher_is_better: bool) -> str:
    """Return the title of a measurement with its unit and direction."""
    return f"{name} ({unit}; {'higher' if higher_is_better else 'lower'} is better)"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with columns in line; cells are cut to their first line, and escaped."""
    shown = [head, *([cell.partition("\n")[0].replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in shown]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML; the first row holds the headings."""
    tags = ["th", *["td"] * (len(rows) - 1)]
    lines = ("".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in zip(tags, rows, strict=True))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
