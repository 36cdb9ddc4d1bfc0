"""Sentences that both displays show."""

from __future__ import annotations

import re
from typing import Protocol

import kdtool

__all__ = ["Display", "describe_end", "describe_loss", "describe_measurement", "duration", "harmless", "rate", "roughly",
           "summary"]  # fmt: skip

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Display(Protocol):
    """Shows stages by their titles, several at a time if need be, and the position of the run among its stages."""

    def place(self, position: str) -> None:
        """Take the position to show from now on; "" for none."""

    def start(self, title: str, total: int | None, unit: str) -> None:
        """Show that a stage begins."""

    def advance(self, title: str, done: int) -> None:
        """Show how much of a stage is done."""

    def step(self, title: str, report: kdtool.StepReport) -> None:
        """Show a training step."""

    def end(self, title: str, seconds: float, *, reused: bool) -> None:
        """Show that a stage ended."""

    def line(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def harmless(text: str) -> str:
    """Return text without control characters: messages of components may quote untrusted text."""
    return _CONTROL.sub("?", text)


def duration(seconds: float) -> str:
    """Return a span of time in words."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def roughly(seconds: float) -> str:
    """Return a span of time that is not known exactly."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def rate(per_second: float, unit: str) -> str:
    """Return a rate: "1.9k tokens/s", or seconds for one where that reads better."""
    if 0 < per_second < 0.5:
        return f"{1 / per_second:.1f} s each"
    shown = f"{per_second / 1000:.1f}k" if per_second >= 1000 else f"{per_second:.3g}"
    return f"{shown} {unit or 'items'}/s"


def describe_end(title: str, seconds: float, *, reused: bool) -> str:
    """Return a line for a finished stage."""
    return f"{title}: reused" if reused else f"{title}: done in {duration(seconds)}"


def describe_loss(report: kdtool.StepReport) -> str:
    """Return a step's loss, and the overlap of student and teacher if it was measured."""
    overlap = report.figures.get("overlap_ratio")
    return f"loss {report.loss:.4g}" + ("" if overlap is None else f", overlap {overlap:.0%}")


def describe_measurement(measurement: kdtool.Measurement) -> str:
    """Return a measurement with its interval, and its first text, such as a completion."""
    bounds = " (too few items for an interval)" if measurement.items else ""
    if measurement.low is not None and measurement.high is not None:
        bounds = f" ({measurement.low:.4g} to {measurement.high:.4g})"
    text = next((f"; {name!r}: {found!r}" for name, found in measurement.texts.items()), "")
    return f"{measurement.name} of {measurement.subject}: {measurement.value:.4g} {measurement.unit}{bounds}{text}"


def summary(run: kdtool.RunInfo, status: str, *, made: int, reused: int, seconds: float) -> str:
    """Return a line on the end of a run."""
    if status == "done":
        again = f", {reused} reused" if reused else ""
        work = f"{_stages(made)} in {duration(seconds)}{again}" if made else f"all of its {_stages(reused)} reused"
        return f"Run {run.name} is done: {work}"
    ended = "failed" if status == "failed" else "was interrupted"
    if not made + reused:
        return f"Run {run.name} {ended} before its first stage was complete."
    remedy = " Finished stages are kept." if status == "failed" else ""
    return f"Run {run.name} {ended} ({_stages(reused)} reused, {made or 'none'} completed).{remedy}"


def _stages(count: int) -> str:
    return f"{count} stage{'' if count == 1 else 's'}"
