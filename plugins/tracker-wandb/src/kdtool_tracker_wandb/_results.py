"""Results of a finished run: its settings, measurements, samples and report, and in `_artefacts` the models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import kdtool
import wandb

from kdtool_tracker_wandb._artefacts import log_artefacts
from kdtool_tracker_wandb._tracking import Member, TrackedRun, Tracking

__all__ = ["publish"]


def publish(tracking: Tracking) -> None:
    """Add the results in the run's folder to its W&B runs."""
    if not (tracking.folder / "results.json").exists():
        return
    results = kdtool.load(tracking.folder)
    for arm in results.arms:
        tracking.open(Member(arm.arm, arm.seed))
    _measurements(tracking, results)
    for member in [Member(arm.arm, arm.seed) for arm in results.arms]:
        tracked = tracking.open(member)
        tracked.run.config.update(_config(results), allow_val_change=True)  # type: ignore[no-untyped-call]
        tracked.run.summary["verdict"] = results.verdict
        if media := dict(_media(results, member)):
            tracked.show(media)
    log_artefacts(tracking, results)


def _config(results: kdtool.Results) -> dict[str, Any]:
    used = {one.name: {"use": one.use, "version": one.version, **one.config} for one in results.components}
    return {"recipe": dict(results.recipe), "components": used, "environment": dict(results.environment)}


def _measurements(tracking: Tracking, results: kdtool.Results) -> None:
    """Write each measurement with its interval into the summary of its subject's W&B run."""
    subjects = {subject.name: subject for subject in results.subjects}
    for found in results.measurements:
        if subject := subjects.get(found.subject):
            tracked, prefix = _place(tracking, results, subject)
            bounds = {"": found.value, "/low": found.low, "/high": found.high, "/n": found.n}
            known = {key: value for key, value in bounds.items() if value is not None}
            tracked.run.summary.update({f"{prefix}{found.name}{key}": value for key, value in known.items()})


def _place(tracking: Tracking, results: kdtool.Results, subject: kdtool.Subject) -> tuple[TrackedRun, str]:
    """Return the W&B run of a subject, and the prefix of its measurements; an exported file belongs to its student."""
    if subject.role == "artifact" and results.arms:
        first = results.arms[0]
        label = subject.arm.removeprefix(f"{first.arm}-")
        return tracking.open(Member(first.arm, first.seed)), f"exports/{label}/"
    member = Member(subject.arm or subject.name, subject.seed)
    return tracking.open(member, subject.role), "measurements/"


def _media(results: kdtool.Results, member: Member) -> Iterator[tuple[str, Any]]:
    if member.arm == results.arms[0].arm and (table := _samples(results.measurements)):
        yield "samples", table
    if results.report is not None and (results.folder / results.report).is_file():
        yield "report", wandb.Html((results.folder / results.report).read_text(encoding="utf-8"), inject=False)


def _samples(measurements: Sequence[kdtool.Measurement]) -> wandb.Table | None:
    """Return texts that measurements show, such as completions: a row for each prompt, a column for each model."""
    shown = [found for found in measurements if found.texts]
    models = list(dict.fromkeys(found.subject for found in shown))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for found in shown:
        for prompt, text in found.texts.items():
            cells.setdefault((found.name, prompt), {})[found.subject] = text
    rows = [[*place, *(texts.get(model) for model in models)] for place, texts in cells.items()]
    return wandb.Table(columns=["measurement", "prompt", *models], data=rows) if rows else None
