"""The process of the command line: what `kdtool` and `python -m kdtool` start."""

from __future__ import annotations

import gc
import os
import sys

from kdtool._allocator import begin_again_with_joined_blocks

__all__ = ["begin"]

COMPUTING = {"run", "eval"}
"""Commands that compute for longer than a moment."""


def begin() -> None:
    """Prepare this process, run the command line, and exit with its code."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command in COMPUTING:
        begin_again_with_joined_blocks()
    from kdtool._cli import main  # only now: a process that begins again would import it twice
    from kdtool._estimate.other_work import prepare_threads

    if command in COMPUTING:
        prepare_threads(os.environ)
    if command == "check":  # it ends soon; looking for garbage among torch's modules would take a sixth of its time
        gc.disable()
    main()


if __name__ == "__main__":
    begin()
