"""Sentences that both displays show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

import kdtool

__all__ = ["Display", "describe_end", "describe_measurement", "duration", "harmless", "rate", "summary"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Display(Protocol):
    """Shows stages by their titles, several at a time if need be."""

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


def rate(per_second: float, unit: str) -> str:
    """Return a rate: "1.9k tokens/s", or seconds for one where that reads better."""
    if 0 < per_second < 0.5:
        return f"{1 / per_second:.1f} s each"
    shown = f"{per_second / 1000:.1f}k" if per_second >= 1000 else f"{per_second:.3g}"
    return f"{shown} {unit or 'items'}/s"


def describe_end(title: str, seconds: float, *, reused: bool) -> str:
    """Say that a stage ended."""
    return f"{title}: used again, nothing to do" if reused else f"{title}: done in {duration(seconds)}"


def describe_measurement(measurement: kdtool.Measurement) -> str:
    """Say a measurement with its interval, and its first text, such as a completion."""
    bounds = ""
    if measurement.low is not None and measurement.high is not None:
        bounds = f" ({measurement.low:.4g} to {measurement.high:.4g})"
    text = next((f"; {name!r}: {found!r}" for name, found in measurement.texts.items()), "")
    return f"{measurement.name} of {measurement.subject}: {measurement.value:.4g} {measurement.unit}{bounds}{text}"


def summary(run: kdtool.RunInfo, status: str, *, made: int, reused: int, seconds: float) -> Iterator[str]:
    """Say how a run ended, in a few lines."""
    words = {"done": "is done", "failed": "failed", "interrupted": "was interrupted"}
    again = f", {reused} used again" if reused else ""
    yield f"Run {run.name} {words[status]}: {made} stages made in {duration(seconds)}{again}"
    if status != "done":
        yield "Finished work is kept: the same command resumes there"
