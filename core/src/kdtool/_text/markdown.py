"""Numbers as files and notebooks show them, and tables in HTML."""

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


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML; the first row holds the headings."""
    tags = ["th", *["td"] * (len(rows) - 1)]
    lines = ("".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in zip(tags, rows, strict=True))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
