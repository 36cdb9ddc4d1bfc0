"""Record what a command shows in a terminal, and draw the recording as an animated picture. Needs Linux or macOS.

    python docs/terminal.py record run.cast kdtool run quickstart
    python docs/terminal.py draw run.cast docs/terminal.svg --start 110 --seconds 15

The recording is an asciicast (version 2), which `asciinema play` plays, too; names of the working folder and of the home
folder are left out of it. The picture is one SVG file without scripts: it shows the screens of the recording in turn, faster
than they came, and then the last one for a while. A reader who asks for less motion sees the last screen only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Any

COLUMNS, LINES = 84, 20
CHARACTER, LINE, MARGIN = 8.4, 19, 14
"""Width and height of a character, and the margin around all of them, in pixels."""
FONTS = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace'
COLOURS = {
    "black": "#4a545e", "red": "#f07178", "green": "#7fd38a", "brown": "#e6c277", "blue": "#7fa8ee",
    "magenta": "#e0559b", "cyan": "#36c2b8", "white": "#a0a9b3",
}  # fmt: skip
"""Colours of a terminal by the names that pyte gives them."""
LAST_SECONDS = 6.0
"""Time for which the last screen stays."""


@dataclass(frozen=True)
class Screen:
    """The content of the terminal: `seconds` since the start, and lines of (text, colour, bold)."""

    seconds: float
    lines: tuple[tuple[tuple[str, str, bool], ...], ...]


def record(command: Sequence[str], path: Path) -> int:
    """Run a command in a separate terminal, show and record its output, and return its exit code."""
    import fcntl
    import pty
    import struct
    import termios

    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="", COLUMNS=str(COLUMNS), LINES=str(LINES))
        os.execvp(command[0], list(command))  # noqa: S606 - the user's own command
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    begun = monotonic()
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"version": 2, "width": COLUMNS, "height": LINES}) + "\n")
        while data := _read(terminal):
            text = data.decode("utf-8", errors="replace").replace(f"{Path.cwd()}/", "").replace(str(Path.home()), "~")
            file.write(json.dumps([round(monotonic() - begun, 3), "o", text]) + "\n")
            file.flush()
            sys.stdout.write(text)
            sys.stdout.flush()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux reports the end
        return b""


def read_screens(path: Path, start: float = 0.0) -> list[Screen]:
    """Return the screens of a recording, each different from the one before; output before `start` is left out."""
    import pyte

    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.Stream(screen)
    screens: list[Screen] = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        seconds, _, text = json.loads(line)
        if seconds < start:
            continue
        stream.feed(text)
        lines = tuple(_runs([screen.buffer[row][column] for column in range(COLUMNS)]) for row in range(LINES))
        if not screens or lines != screens[-1].lines:
            screens.append(Screen(seconds, lines))
    return screens


def _runs(characters: Sequence[Any]) -> tuple[tuple[str, str, bool], ...]:
    """Join the neighbouring characters of a line that look alike."""
    looks = groupby(characters, key=lambda character: (character.fg, character.bold))
    return tuple(("".join(character.data for character in group), fg, bold) for (fg, bold), group in looks)


def choose(screens: Sequence[Screen], number: int) -> list[Screen]:
    """Return at most `number` different screens: those that are shown at even distances in time."""
    first, end = screens[0].seconds, screens[-1].seconds
    moments = [first + (end - first) * index / (number - 1) for index in range(number)]
    shown = [next(screen for screen in reversed(screens) if screen.seconds <= moment + 1e-9) for moment in moments]
    return [screen for screen, _ in groupby(shown)]


def draw(screens: Sequence[Screen], seconds: float, label: str) -> str:
    """Return the animated picture: `seconds` for all screens but the last, which stays for a while."""
    width, height = round(COLUMNS * CHARACTER) + 2 * MARGIN, LINES * LINE + 2 * MARGIN
    total, each = seconds + LAST_SECONDS, seconds / max(1, len(screens) - 1)
    frames = [
        f"{100 * index * each / total:.2f}% {{ transform: translateY(-{index * height}px) }}"
        for index in range(len(screens))
    ]
    last = f"transform: translateY(-{(len(screens) - 1) * height}px)"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
        f"<title>{escape(label)}</title>",
        f"<style>text {{ font: 14px {FONTS}; white-space: pre; fill: #dfe4e8 }} .bold {{ font-weight: bold }}",
        *(f".{name} {{ fill: {colour} }}" for name, colour in COLOURS.items()),
        f".film {{ {last}; animation: film {total:g}s steps(1, end) infinite }}",
        f"@keyframes film {{ {' '.join(frames)} 100% {{ {last} }} }}",
        "@media (prefers-reduced-motion: reduce) { .film { animation: none } }</style>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#14181c"/>',
        '<g class="film">',
        *(text for index, screen in enumerate(screens) for text in _texts(screen, index * height)),
        "</g></svg>",
    ]
    return "\n".join(parts) + "\n"


def _texts(screen: Screen, top: int) -> Iterator[str]:
    """Yield the texts of a screen; each has its width, since fonts differ."""
    for row, line in enumerate(screen.lines):
        column = 0
        for text, colour, bold in line:
            shown = text.strip()
            if shown:
                x = MARGIN + (column + len(text) - len(text.lstrip())) * CHARACTER
                y = top + MARGIN + row * LINE + 14
                look = " ".join(filter(None, (_class(colour), "bold" if bold else "")))
                attribute = f' class="{look}"' if look else ""
                length = f'textLength="{len(shown) * CHARACTER:.1f}" lengthAdjust="spacingAndGlyphs"'
                yield f'<text x="{x:.1f}" y="{y}" {length}{attribute}>{escape(shown)}</text>'
            column += len(text)


def _class(colour: str) -> str:
    """Return the class for a colour of the terminal: a name, or the nearest one to six digits; "" for the default."""
    if not re.fullmatch("[0-9a-f]{6}", colour):
        return colour if colour in COLOURS else ""
    wanted = bytes.fromhex(colour)
    known = {name: bytes.fromhex(value[1:]) for name, value in COLOURS.items()}
    return min(known, key=lambda name: sum((a - b) ** 2 for a, b in zip(known[name], wanted, strict=True)))


def main() -> int:
    """Record or draw, as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(dest="job", required=True)
    recording = jobs.add_parser("record")
    recording.add_argument("recording", type=Path)
    recording.add_argument("command", nargs=argparse.REMAINDER)
    drawing = jobs.add_parser("draw")
    drawing.add_argument("recording", type=Path)
    drawing.add_argument("picture", type=Path)
    drawing.add_argument("--start", type=float, default=0.0, help="leave out this many seconds of the recording")
    drawing.add_argument("--seconds", type=float, default=15.0, help="time for all screens but the last")
    drawing.add_argument("--screens", type=int, default=24, help="number of screens, at most")
    drawing.add_argument("--label", default="A terminal")
    options = parser.parse_args()
    if options.job == "record":
        return record(options.command, options.recording)
    screens = choose(read_screens(options.recording, options.start), options.screens)
    options.picture.write_text(draw(screens, options.seconds, options.label), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
