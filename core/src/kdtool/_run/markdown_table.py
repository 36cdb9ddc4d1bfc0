"""Tables in Markdown, as the command line prints them and files keep them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned", "number"]


def number(value: float) -> str:
    """Return a value as tables show it: whole where it is large, else with four digits."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns are aligned."""
    shown = [head, *([_one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in shown]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _one_line(cell: str) -> str:
    """Return the first line, with what would end a cell escaped."""
    return cell.partition("\n")[0].replace("|", "\\|")
