"""The process of the command line: what `kdtool` and `python -m kdtool` start."""

from __future__ import annotations

from kdtool._allocator import begin_again_with_joined_blocks
from kdtool._cli import main

__all__ = ["begin"]


def begin() -> None:
    """Prepare this process, run the command line, and exit with its code."""
    begin_again_with_joined_blocks()
    main()


if __name__ == "__main__":
    begin()
