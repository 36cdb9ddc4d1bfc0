"""Memory of the training process at each logged step, kept in a file so that the curve survives a kill.

The event log does not have it, and a process that replays events must not take its own memory for that of the training.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["MemoryLog", "read_memory"]

_NAME = "memory.jsonl"
_GIB = 1 << 30


class MemoryLog:
    """Appends to `wandb/memory.jsonl` in the run's folder, if this process holds the run's lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "wandb" / _NAME
        self._live = False
        with suppress(OSError, ValueError, KeyError):
            self._live = json.loads((folder / "lock.json").read_text(encoding="utf-8"))["pid"] == os.getpid()

    def measure(self, label: str, step: int) -> dict[str, float]:
        """Measure now, and keep the figures for this step of the stage `label`; {} if this process does not train."""
        figures = dict(_figures()) if self._live else {}
        if figures:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([label, step, figures]) + "\n")
        return figures


def read_memory(folder: Path) -> dict[tuple[str, int], Mapping[str, float]]:
    """Return the figures of all steps, by label and step: the first ones, where a step was repeated."""
    found: dict[tuple[str, int], Mapping[str, float]] = {}
    with suppress(OSError), (folder / "wandb" / _NAME).open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):  # torn by a kill
                label, step, figures = json.loads(line)
                found.setdefault((label, step), figures)
    return found


def _figures() -> list[tuple[str, float]]:
    """Return the process's memory and the peak of its GPU's, in GiB, as far as they can be read."""
    torch = sys.modules.get("torch")
    if torch is None:  # nothing is trained here
        return []
    found = []
    with suppress(OSError, IndexError, ValueError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        found.append(("process", pages * os.sysconf("SC_PAGE_SIZE") / _GIB))
    if torch.cuda.is_initialized():
        found.append(("gpu-peak", torch.cuda.max_memory_allocated() / _GIB))
    return found
