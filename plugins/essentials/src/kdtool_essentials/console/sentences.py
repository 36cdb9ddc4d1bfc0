"""The sentences about a run that terminals and logs show, free of control characters."""

from __future__ import annotations

import re

import kdtool

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


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
    """Return a rate: "1.9k tokens/s", or seconds for one where that reads better; without the money after a unit."""
    if 0 < per_second < 0.5:
        return f"{1 / per_second:.1f} s each"
    shown = f"{per_second / 1000:.1f}k" if per_second >= 1000 else f"{per_second:.3g}"
    return f"{shown} {unit.partition(',')[0] or 'items'}/s"


def describe_end(title: str, seconds: float, *, reused: bool) -> str:
    """Return a line for a finished stage."""
    return f"{title}: reused" if reused else f"{title}: done in {duration(seconds)}"


def describe_loss(report: kdtool.StepReport) -> str:
    """Return a step's loss, and the overlap of student and teacher if it was measured."""
    overlap = report.figures.get("overlap_ratio")
    return f"loss {report.loss:.4g}" + ("" if overlap is None else f", overlap {100 * overlap:.0f} %")


def summary(run: kdtool.RunInfo, status: str, *, made: int, reused: int, seconds: float) -> str:
    """Return a line on the end of a run."""
    if status == "done":
        again = f", {reused} reused" if reused else ""
        work = (
            f"{kdtool.count_of(made, 'stage')} in {duration(seconds)}{again}"
            if made
            else f"all of its {kdtool.count_of(reused, 'stage')} reused"
        )
        return f"Run {run.name} is done: {work}"
    ended = "failed" if status == "failed" else "was interrupted"
    if not made + reused:
        return f"Run {run.name} {ended} before its first stage was complete."
    remedy = " Finished stages are kept." if status == "failed" else ""
    return f"Run {run.name} {ended} ({kdtool.count_of(reused, 'stage')} reused, {made or 'none'} completed).{remedy}"
