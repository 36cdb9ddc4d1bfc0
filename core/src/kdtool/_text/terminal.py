"""Lines for the user, past all trackers."""

from __future__ import annotations

import contextlib
import os
import sys


def escape(text: str) -> str:
    """Write out characters that steer a terminal or change how text reads, such as an escape; line feeds and tabs stay."""
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def print_line(text: str) -> None:
    """Print a line to standard error; a closed stream does not end a run."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{escape(text)}\n", end="", file=sys.stderr)  # at once: trackers in other threads write lines, too


def print_first_line(text: str) -> None:
    """Print the line with which a command begins, before anything is imported: in a terminal, by the first process."""
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        print_line(text)
