"""Lines for the user, past all trackers, and numbers as terminals, files and notebooks show them.

`figure` prints as many digits as the interval of a number justifies; `number` is for files, and `html_table` for notebooks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Sequence
from html import escape
from math import floor, inf, isinf, log10
from typing import TextIO

import click


def escape_controls(text: str) -> str:
    """Write out characters that steer a terminal or change how text reads, such as an escape; line feeds and tabs stay."""
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def width_of(stream: TextIO | None) -> int | None:
    """Return the columns of the terminal that a stream writes to; None for a file or pipe."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream is not None and stream.isatty():
            return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(stream.fileno()).columns or None
    return None


def wrap(text: str, width: int | None) -> str:
    """Return text whose lines end at words before `width`; a longer word, such as a path, stays whole."""
    lines: list[str] = []
    for line in text.split("\n"):
        if width is None or len(click.unstyle(line)) <= width:
            lines.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        lines += textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def say(text: str = "", *, err: bool = False) -> None:
    """Print lines of a command: words stay whole in a terminal, and a file or pipe gets lines as they are. Since 0.1.

    Args:
        text: one line or several; `click.style` may colour it.
        err: to standard error, as all that is not the command's result.
    """
    click.echo(wrap(text, width_of(sys.stderr if err else sys.stdout)), err=err)


def print_line(text: str) -> None:
    """Print a line to standard error; a closed stream does not end a run."""
    with contextlib.suppress(OSError, ValueError):
        line = wrap(escape_controls(text), width_of(sys.stderr))
        print(f"{line}\n", end="", file=sys.stderr)  # at once: trackers in other threads write lines, too


def print_first_line(text: str) -> None:
    """Print the line with which a command begins, before anything is imported: in a terminal, by the first process."""
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        print_line(text)


SHOWN_UNITS = {"fraction": 100.0, "%": 1.0, "percent": 1.0, "s": 1.0, "seconds": 1.0, "bytes": 1.0, "parameters": 1.0}
"""Units that a figure shows, with the factor by which it is multiplied."""
_SUFFIXES = {"fraction": " %", "%": " %", "percent": " %", "s": " s", "seconds": " s"}
_DIVERGED = 1e9
"""Numbers from here on are shown with an exponent."""


def figure(
    value: float, unit: str, low: float | None = None, high: float | None = None, *, signed: bool = False
) -> str:
    """Return a value with the interval from `low` to `high`, if there is one: `21 % (0–51)`.

    Value and interval have two significant digits, or as many as distinguish them; without an interval, the value has
    three. `signed` values have their sign.
    """
    scale, suffix, numbers = SHOWN_UNITS.get(unit, 1.0), _SUFFIXES.get(unit, ""), [value]
    if unit in {"bytes", "parameters"} and 1000 <= abs(value) < inf:
        step = min(int(log10(abs(value)) / 3), 4)
        scale, suffix = 1000.0**-step, f" {' kMGT'[step]}{'B' if unit == 'bytes' else ''}"
    half = abs(value) / 100
    if low is not None and high is not None:
        numbers, half = [value, low, high], (high - low) / 2
    largest = max(map(abs, numbers))
    smallest = scale * max(min(half, largest / 10), largest / 1000)
    digits = min(6, max(0, -floor(log10(smallest)))) if 0 < smallest < inf else 0
    diverged = scale * max((abs(number) for number in numbers if abs(number) < inf), default=0.0) >= _DIVERGED
    form = f"{'+' if signed else ''}{'.3g' if diverged else f',.{digits}f'}"
    shown, *ends = (f"{round(scale * number, digits) + 0.0:{form}}".replace("inf", "∞") for number in numbers)
    between = " to " if set("+-") & set("".join(ends)) else "–"
    return f"{shown}{suffix}{f' ({between.join(ends)})' if ends else ''}"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: `11 min`."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if (count := seconds / length) >= 1.5:
            return f"{count:.0f} {unit}" if count >= 9.95 else f"{count:.1f} {unit}"
    return f"{max(seconds, 1.0):.0f} s"


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
