"""Results of a finished run in W&B: settings, measurements, samples and report, and models and signals as artefacts.

Artefacts have their lineage: teacher → signals → student → export. An artefact names the folder of kdtool's artefact in
the run or the store in its metadata, and contains its manifest. Nothing is copied or uploaded unless `upload_exports`
is set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kdtool
import wandb

from kdtool_report.wandb.tracking import Member, TrackedRun, Tracking, stages_of


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


def log_artefacts(tracking: Tracking, results: kdtool.Results) -> None:
    """Log what each W&B run has made, and what it was made from."""
    taught = [(name, stage) for stage in results.stages if (name := stage.name).startswith("signals/")]
    for subject in results.subjects:
        if subject.role == "teacher" and subject.seed is None:
            run = tracking.open(Member(subject.name, None), subject.role).run
            for artefact in (*_teachers(results), *(_signals(results, stage) for _, stage in taught)):
                run.log_artifact(artefact)
    for arm in results.arms:
        member = Member(arm.arm, arm.seed)
        tracked, sources = tracking.open(member), stages_of(tracking.folder, member)
        used = [_signals(results, stage) for name, stage in taught if name in sources]
        has_teachers = any(stages.get("teachers") for name, stages in sources.items() if name.startswith("phases/"))
        for artefact in (*(_teachers(results) if used or has_teachers else ()), *used):
            _use(tracked, artefact)
        tracked.run.log_artifact(_model(results, arm))
        for exported in arm.artifacts:
            tracked.run.log_artifact(_export(results, exported, upload=tracking.settings["upload_exports"]))


def _use(tracked: TrackedRun, artefact: wandb.Artifact) -> None:
    """Note an artefact as the input of a W&B run.

    `use_artifact` refuses to work offline, although the files that it would write can be uploaded like all others.
    """
    if tracked.run.offline:
        tracked.run._log_artifact(artefact, is_user_created=True, use_after_commit=True)
    else:
        tracked.run.use_artifact(artefact)


def _teachers(results: kdtool.Results) -> Iterator[wandb.Artifact]:
    for component in results.components:
        if component.kind == "teacher":
            about = {
                "use": component.use,
                "distribution": component.distribution,
                "version": component.version,
                "config": dict(component.config),
            }
            artefact = _artefact(results, component.name, "model", {"role": "teacher", **about})
            with artefact.new_file("teacher.json") as file:
                json.dump(about, file, indent=1, default=str)
            yield artefact


def _signals(results: kdtool.Results, stage: kdtool.StageRecord) -> wandb.Artifact:
    about = {"fingerprint": stage.fingerprint, "seconds": stage.seconds}
    return _refer(results, _artefact(results, stage.name, "signals", about), stage.path)


def _model(results: kdtool.Results, arm: kdtool.ArmResult) -> wandb.Artifact:
    trained = {
        name: {"steps": phase.steps, "tokens": phase.tokens, "seconds": phase.seconds}
        for name, phase in arm.phases.items()
    }
    about = {"role": arm.arm, "seed": arm.seed, "phases": trained}
    return _refer(results, _artefact(results, f"{arm.arm}-seed{arm.seed}", "model", about), arm.path.parent)


def _export(results: kdtool.Results, exported: kdtool.Artifact, *, upload: bool) -> wandb.Artifact:
    about = {
        "format": exported.format,
        "quantisation": exported.quantisation,
        "how_to_use": exported.how_to_use.replace(str(exported.path), exported.path.name),
    }
    artefact = _artefact(results, f"export-{exported.format}", "model", {**about, "bytes": exported.bytes})
    path = exported.path
    card = (path if path.is_dir() else path.parent) / "README.md"
    if card.is_file():
        artefact.add_file(str(card), name="README.md")
    if not upload:
        return _refer(results, artefact, path.parent)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file() and file != card:
            artefact.add_file(str(file), name=file.relative_to(path.parent).as_posix(), policy="immutable")
    return artefact


def _refer(results: kdtool.Results, artefact: wandb.Artifact, folder: Path) -> wandb.Artifact:
    """Add the path of an artefact of kdtool in the run or the store to the metadata, and its manifest by its content."""
    place = f"run/{folder.relative_to(results.folder).as_posix()}" if folder.is_relative_to(results.folder) else ""
    place = place or f"store/{folder.parent.name}/{folder.name}"
    artefact.metadata = {**artefact.metadata, "folder": place}
    if (folder / "manifest.json").is_file():
        artefact.add_file(str(folder / "manifest.json"))
    return artefact


def _artefact(results: kdtool.Results, name: str, kind: str, about: dict[str, Any]) -> wandb.Artifact:
    return wandb.Artifact(re.sub(r"[^\w.-]+", "-", f"{results.name}-{name}")[:128], kind, metadata=about)
