"""Progress of a phase: its state besides tensors, and the log of steps.

Each checkpoint holds the state as JSON and a copy of the log, one JSON object per line, which a resumed phase continues.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import kdtool
import torch

from kdtool_torch.machine import memory_of_process
from kdtool_torch.objective import Objective
from kdtool_torch.overlap import report_overlap
from kdtool_torch.stats import StepFigures, TermState
from kdtool_torch.trainer.settings import StandardTrainerConfig
from kdtool_torch.trainer.stop import StopSignal

_PROGRESS_FILE = "progress.json"


@dataclass
class Progress:
    """State that a resumed phase needs besides tensors and generators."""

    seconds: float = 0.0
    tokens: int = 0
    terms: TermState = field(default_factory=TermState)
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


def write_progress(folder: Path, progress: Progress) -> None:
    """Add the file to a checkpoint that is being written."""
    (folder / _PROGRESS_FILE).write_text(json.dumps(asdict(progress), indent=1) + "\n", encoding="utf-8")


def read_progress(folder: Path) -> Progress:
    """Read the progress from a checkpoint.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is damaged.
    """
    content = json.loads((folder / _PROGRESS_FILE).read_text(encoding="utf-8"))
    content["terms"] = TermState.read(content["terms"])
    return Progress(**{each.name: content[each.name] for each in fields(Progress) if each.name in content})


HISTORY = "history.jsonl"


def append_to_history(path: Path, report: kdtool.StepReport) -> None:
    """Add a report to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(report)) + "\n")


def restore_history(path: Path, checkpoint: Path | None) -> None:
    """Restore the steps logged before the checkpoint; None removes all steps."""
    if checkpoint is None:
        path.unlink(missing_ok=True)
    else:
        shutil.copyfile(checkpoint / HISTORY, path)


def learning_rate_factor(config: StandardTrainerConfig, step: int, steps: int) -> float:
    """Return the learning rate's fraction of its peak at a step, counted from 0."""
    warmup = max(1, round(config.warmup * steps)) if config.warmup else 0
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.1 + 0.9 * ((1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done)


class Loop(Protocol):
    """The training loop as its observers see it."""

    config: StandardTrainerConfig
    run: kdtool.RunInfo
    phase: kdtool.Phase
    objective: Objective
    device: torch.device
    progress: Progress
    stop: StopSignal
    figures: StepFigures
    step: int
    """Steps that are done."""
    over: bool
    """True if training ends before the phase's last step, since the student no longer improves."""
    metrics: Mapping[str, float] | None
    """Measurements of the validation after this step; None if there is none."""
    learning_rate: float
    gradient_norm: float


class Observer(Protocol):
    """Called after each step, on every rank."""

    def after(self, loop: Loop, /) -> None:
        """Look at the step that is over, `loop.step`; set `loop.over` to end training after it."""


class Reports:
    """Reports steps to history and trackers: those that are logged, validated, first or last."""

    def after(self, loop: Loop) -> None:
        """Report the step if that is due; weightings that balance need the figures of every step."""
        config, step, run = loop.config, loop.step, loop.run
        regular = step % config.log_every == 0 or step % config.gradient_norms_every == 0
        is_due = regular or loop.metrics is not None or step in {1, loop.phase.steps}
        if not (is_due or run.implementing("kdtool_balance")):
            return
        terms = loop.objective.report(loop.figures)
        if not is_due:
            return
        report = kdtool.StepReport(
            step=step,
            steps=loop.phase.steps,
            tokens=loop.progress.tokens,
            seconds=loop.progress.seconds,
            loss=sum(term.value * term.weight for term in terms.values()),
            learning_rate=loop.learning_rate,
            gradient_norm=loop.gradient_norm,
            terms=terms,
            metrics=loop.metrics or {},
            figures=report_overlap(loop.figures, run) if loop.objective.measures_overlap else {},
            memory=memory_of_process(loop.device),
        )
        if run.rank == 0:
            append_to_history(loop.phase.checkpoints / HISTORY, report)
            run.hook.kdtool_step_end(run, report)
            run.hook.kdtool_progress(run, report.step, None)
