"""Lines for the user, past all trackers, and numbers as terminals, files and notebooks show them.

`figure` prints as many digits as the interval of a number justifies; `number` is for files, and `html_table` for notebooks.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
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


_PIECES = re.compile(r"(\s*)((?:\([-+∞\d][^()]{0,30}\)|(?<![\w.,-])[-+]?[\d.,]+ (?=[^\W\d]|[%×])|\S(?: (?=[↑↓]))?)+)")
"""Spaces and what is not divided: a word, a number with its unit, a name with its arrow, an interval."""
_ARGUMENTS = re.compile(r"""(\s*)((?:'[^']*'|"[^"]*"|\S)+)""")


def pieces_of(text: str) -> list[str]:
    """Return the parts of a text that no line end divides."""
    return [piece for _, piece in _PIECES.findall(text)]


def fill(text: str, width: int, indent: str = "") -> list[str]:
    """Return a line as several that end at words before `width`; a longer word, such as a path, stays whole.

    A shell still reads a command that is on a separate line, after four spaces, as one.
    """
    is_command = re.match(" {4}(aws|cd|gcloud|hf|kdtool|wandb) ", text)
    lines, end = [""], " \\" if is_command else ""
    for spaces, piece in (_ARGUMENTS if is_command else _PIECES).findall(text):
        longer = f"{lines[-1]}{spaces}{piece}"
        if lines[-1].strip() and len(click.unstyle(longer)) > width - len(end):
            lines[-1:] = [f"{lines[-1]}{end}", f"{indent}{piece}"]
        else:
            lines[-1] = longer
    return lines


def wrap(text: str, width: int | None) -> str:
    """Return text with each line that is wider than `width` as several, all except the first further right."""
    lines: list[str] = []
    for line in text.split("\n"):
        if width is None or len(click.unstyle(line)) <= width:
            lines.append(line)
        else:
            lines += fill(line, width, " " * (len(line) - len(line.lstrip(" ")) + 2))
    return "\n".join(lines)


class Styled(str):
    """Text with colours, which `say` prints as it is: `style` has escaped it. Since 0.1."""

    __slots__ = ()


def style(text: str, *, fg: str | None = None, bold: bool | None = None, dim: bool | None = None) -> str:
    """Return text with a colour of `click.style` for `say`; control characters in it are escaped. Since 0.1."""
    return Styled(click.style(escape_controls(text), fg=fg, bold=bold, dim=dim))


def say(*parts: str, err: bool = False) -> None:
    """Print lines of a command: words stay whole in a terminal, and a file or pipe gets lines as they are. Since 0.1.

    Args:
        parts: text of one line or several. Control characters other than line feeds and tabs are escaped, as anybody may
            have written it; only text from `style` has colours.
        err: to standard error, as all that is not the command's result.
    """
    text = "".join(part if isinstance(part, Styled) else escape_controls(part) for part in parts)
    _last_line.print_above(text, sys.stderr if err else sys.stdout)


def print_line(text: str) -> None:
    """Print a line to standard error; a closed stream does not end a run."""
    with contextlib.suppress(OSError, ValueError):
        say(text, err=True)


class _LastLine:
    """The last line of a terminal while it is rewritten in place; other lines are printed above it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: TextIO | None = None

    def print_above(self, text: str, stream: TextIO | None) -> None:
        """Erase the line, and print others."""
        if stream is not None:
            colour = False if os.environ.get("NO_COLOR") else None  # None: none in pipes
            self.erase()
            click.echo(wrap(text, width_of(stream)), stream, color=colour)

    def rewrite(self, text: str, stream: TextIO, ended: threading.Event) -> None:
        """Replace the line unless its time has `ended`; what libraries print begins at its start."""
        with self._lock:
            if not ended.is_set():
                self._stream = stream
                self._print(f"{text}\r")

    def erase(self, ended: threading.Event | None = None) -> None:
        """Erase the line, and set the event."""
        with self._lock:
            if ended:
                ended.set()
            if self._stream:
                self._print("")
                self._stream = None

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(f"\r\x1b[K{text}", end="", flush=True, file=self._stream)


_last_line = _LastLine()
erase_line = _last_line.erase
"""Erase the line that is rewritten in place, until its next time: others print here."""


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Print what takes a while, and then the time: every 4 s in one line of a terminal, every 12 s elsewhere. Since 0.1.

    Lines go to the standard error of the beginning. Of nested blocks, only the innermost repeats its line.
    """
    print_line(text)
    begun, ended, stream = time.monotonic(), threading.Event(), sys.stderr
    width = width_of(stream)
    seconds = _MOST_SILENCE if width is None else _MOST_SILENCE / 3

    def repeat() -> None:
        while stream is not None and not ended.wait(seconds):
            if _under_way[-1:] != [ended]:
                continue
            so_far = f" {duration(time.monotonic() - begun)} so far"
            line = escape_controls(f"{text}{so_far}")
            if width is None or os.environ.get("TERM") == "dumb":
                with contextlib.suppress(OSError, ValueError):
                    _last_line.print_above(line, stream)
            else:
                if len(line) >= width:
                    room = width - 1 - len(so_far)
                    line = textwrap.shorten(escape_controls(text.removesuffix(" …")), room, placeholder=" …") + so_far
                _last_line.rewrite(line, stream, ended)

    _under_way.append(ended)
    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        _last_line.erase(ended)
        _under_way.remove(ended)


_MOST_SILENCE = 12.0
"""Seconds without a line in a file or pipe; a third of it in a terminal."""
_under_way: list[threading.Event] = []
_first_lines: list[contextlib.AbstractContextManager[None]] = []


def print_first_line(text: str) -> None:
    """Print the line with which a command begins, before anything is imported, as `waiting` does; by the first process.

    A second one ends the first.
    """
    end_first_line()
    if sys.stderr is not None and os.environ.get("RANK", "0") == "0":
        _first_lines.append(waiting(text))
        _first_lines[0].__enter__()


def end_first_line(then: str = "") -> None:
    """Stop repeating it: others show what happens, or the command ends. Repeat another line `then`, if there was one."""
    if _first_lines:
        _first_lines.pop().__exit__(None, None, None)
        if then:
            print_first_line(then)


atexit.register(end_first_line)  # before the interpreter clears the globals that it uses

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
    three. `signed` values are differences: they have their sign, and an interval without zero shows no zero.
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
    if signed and min(numbers) * max(numbers) > 0 and (nearest := scale * min(map(abs, numbers))) < inf:
        digits = min(6, max(digits, -floor(log10(nearest))))
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


def dollars(picodollars: int, *, up: bool = False) -> str:
    """Return an amount: cents from a dollar on, three digits below; rounded `up` for what it is at most. Since 0.1."""
    amount = Decimal(picodollars).scaleb(-12)
    places = 2 if amount >= 1 or not amount else max(2, 2 - amount.adjusted())
    return f"${amount.quantize(Decimal(1).scaleb(-places), ROUND_CEILING if up else ROUND_HALF_EVEN):,f}"


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 layer`, `2,048 layers`. Since 0.1.

    Args:
        number: how many there are.
        noun: what is counted.
        plural: its plural, if that is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def number(value: float) -> str:
    """Return a value as tables show it: whole where it is large, else with four digits."""
    if isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"


def number_range(low: float | None, high: float | None) -> str:
    """Return the ends of an interval, `1 to 2`; "" where there is none."""
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def signed_difference(value: float, low: float, high: float, *, relative: bool) -> str:
    """Return a difference with its interval as sentences show it, a relative one in percent."""
    shown = figure(value, "fraction" if relative else "", low, high, signed=True)
    return shown.removesuffix(")").replace(" (", ", 95 % interval ")


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML; the first row holds the headings."""
    tags = ["th", *["td"] * (len(rows) - 1)]
    lines = ("".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in zip(tags, rows, strict=True))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
