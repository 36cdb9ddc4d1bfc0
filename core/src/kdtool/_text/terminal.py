"""Lines for the user, past all trackers."""

from __future__ import annotations

import contextlib
import sys


def print_line(text: str) -> None:
    """Print a line to standard error; a closed stream does not end a run."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr)
