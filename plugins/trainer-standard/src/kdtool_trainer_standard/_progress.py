"""State of an unfinished phase besides tensors and generators: a file of each checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["Progress", "read", "write"]

_FILE = "progress.json"


@dataclass
class Progress:
    """State that a resumed phase needs besides tensors and generators."""

    seconds: float = 0.0
    tokens: int = 0
    stats: Mapping[str, kdtool.TermReport] | None = None
    """The last step's figures, for balancing plugins."""
    squared_norms: Mapping[str, float] | None = None
    """Sums of squared gradient norms since the phase began: which terms did nothing."""
    token_weights: Mapping[str, Sequence[float]] | None = None
    """The state of `WeightMeans`; None if no tokens are weighed, and before the first step."""
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The state of weightings that balance, by their names."""
    on_policy: Mapping[str, int] | None = None
    """The counts of `OnPolicySampler` on rank 0; None if the phase is not on-policy."""
    best: Mapping[str, Any] | None = None
    """The fields of `Best`, on rank 0, if a validation is watched."""
    overlap: Sequence[Sequence[float]] | None = None
    """Figures of `EarlyVerdict` before the first step; None if there is none."""
    hopeless: str = ""
    """That verdict, if the overlap did not grow."""
    skipped: int = 0
    """Steps that changed nothing, since float16's loss scaling found an overflow."""
    world: int = 1
    """Processes that train: a step is as many rows as they show together."""
    dtype: str = "float32"
    """Data type of matrix products, since the choice of `dtype: auto` depends on the machine."""
    scaler: Mapping[str, float] | None = None
    """State of float16's loss scaling; empty in other precisions."""
    optimizer: Mapping[str, Any] | None = None
    """The result of `optimizer_numbers`."""


def write(folder: Path, progress: Progress) -> None:
    """Add the file to a checkpoint that is being written."""
    (folder / _FILE).write_text(json.dumps(asdict(progress), indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Progress:
    """Read the progress from a checkpoint.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is damaged.
    """
    content = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    stats = content["stats"]
    content["stats"] = stats and {name: kdtool.TermReport(**figures) for name, figures in stats.items()}
    return Progress(**{each.name: content[each.name] for each in fields(Progress) if each.name in content})
