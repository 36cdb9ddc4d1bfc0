"""The command line of a study, and the files that it leaves: findings, with which a second call goes on, and tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def command_line(description: str | None, modes: Collection[str], out: str) -> argparse.ArgumentParser:
    """Return the command line of a study: how much is measured, and where to."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--mode", choices=modes, default="hour", help="how much is measured")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of results; a second call goes on there")
    return parser


def arguments(description: str | None, seeds: Mapping[str, int], out: str) -> argparse.Namespace:
    """Read the command line of a study with a number of seeds for each mode. Each mode has a folder of its own.

    Several calls with different `--seeds` may share a folder at the same time; a last one without reports on all.
    """
    parser = command_line(description, seeds, out)
    parser.add_argument("--seeds", type=int, nargs="+", help="train these only; by default all of the mode")
    options = parser.parse_args()
    options.out /= options.mode
    options.seeds = options.seeds or range(seeds[options.mode])
    return options


class JsonLines:
    """Findings, one JSON object a line, in a file that is only ever added to, perhaps by several processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        path.touch()

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Write findings down at once."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def where(self, **key: Any) -> list[dict[str, Any]]:
        """Return the findings that have these values."""
        lines = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if all(line.get(name) == value for name, value in key.items())]


def written(text: str, path: Path) -> None:
    """Write a file and show what it says."""
    path.write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)
