"""The tracker `wandb`: a run's curves, measurements, samples and artefacts in Weights & Biases.

`events.jsonl` is the source of truth: when a run starts, its logged steps come first, then those that arrive. Offline, each
start thus rewrites whole W&B runs in place of older files: `wandb sync` would let the last of several replace the others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from itertools import count
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import kdtool
from kdtool._store.files import json_lines, parse_json, read_json
from kdtool_essentials.curves import figures
from pydantic import TypeAdapter

if TYPE_CHECKING:
    import wandb

_ENVIRONMENT = "set the environment variables WANDB_ENTITY and WANDB_BASE_URL"


_WAIT = 25
"""Seconds that the end of a run waits for the upload of each W&B run."""


class WandbTracker(kdtool.Tracker):
    """Logs a run to Weights & Biases: a W&B run for each arm and seed, all in one group.

    To send the files of offline mode to your account: `wandb sync runs/NAME/wandb/offline-run-*`.
    """

    extra = "wandb"

    class Config(kdtool.Config):
        """Project, mode and labels of W&B runs; key, team and server: WANDB_API_KEY, WANDB_ENTITY and WANDB_BASE_URL."""

        mode: Literal["offline", "online"] = "offline"
        """`offline` writes files that `wandb sync` can upload later, and opens no connection; `online` uploads at once."""
        project: str = kdtool.Field("kdtool", min_length=1, max_length=128)
        """W&B project."""
        tags: list[str] = kdtool.Field(default=[], max_length=64)
        """Tags of all W&B runs."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._run: kdtool.RunInfo | None = None
        self._runs: dict[tuple[str, int | None], wandb.Run] = {}

    def kdtool_check(self, run: kdtool.RunInfo, when: Literal["start", "text", "student"]) -> Sequence[str]:
        remedy, forms = "set the environment variable WANDB_API_KEY", r"(?i)\b[0-9a-f]{40}\b|wandb_v\d+_\w{20,}"
        keys = [name for name, value in self.config.model_dump().items() if re.search(forms, str(value))]
        if keys or self.config.mode == "offline":
            return [f"{name!r} looks like an API key, and recipes are stored: remove it, and {remedy}" for name in keys]
        if not os.environ.get("WANDB_API_KEY"):
            return [f"mode 'online' needs an API key: {remedy}"]
        if files := [file for file in (Path("wandb", "settings"), Path(".wandb", "settings")) if file.exists()]:
            why = "a folder of others could so send your key to another server"
            return [f"W&B would read {files[0].absolute()}, and {why}: remove it, and {_ENVIRONMENT} in its place"]
        sent, server = "settings, curves, measurements, samples and report", os.environ.get("WANDB_BASE_URL", "W&B")
        run.say(f"wandb: mode is online: {sent} are sent to {server}, project {self.config.project}")
        return []

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        os.environ.pop("WANDB_SERVICE", None)  # another program's process would keep the W&B runs of a killed run
        os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_WEAVE": "true"}
        for name in ("cache", "config", "data"):
            os.environ[f"WANDB_{name.upper()}_DIR"] = str(run.folder / "wandb" / ".wandb" / name)
        if run.offline and self.config.mode == "online":
            run.say("wandb: the run uses no network, so nothing is sent: upload its files later with wandb sync")
        self._run, self._planned, then = run, {stage.name: stage.fingerprint for stage in stages}, dict[str, str]()
        self._last: dict[tuple[str, str], kdtool.StepReport] = {}
        self._points: dict[str, count[int]] = defaultdict(count)
        for event in _events(run.folder, "run_start", "step_end"):
            if event["event"] == "run_start":
                then = {stage["name"]: stage["fingerprint"] for stage in event["stages"]}
            elif then.get(name := f"{event['stage']}/{event['label']}") == self._planned.get(name):  # the same settings
                time = datetime.fromisoformat(event["time"]).timestamp()
                logged = replace(run, **{key: event[key] for key in ("stage", "label", "arm", "seed")}, time=time)
                self.kdtool_step_end(logged, TypeAdapter(kdtool.StepReport).validate_python(event["report"]))

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        if self._run is None:
            return
        tracked, phase = self._open(run.arm, run.seed), run.label.removeprefix(f"{run.arm}-seed{run.seed}-") or "train"
        if (tracked.id, phase) not in self._last:
            tracked.define_metric(f"{phase}/step")
            tracked.define_metric(f"{phase}/*", step_metric=f"{phase}/step")
        before = self._last.get((tracked.id, phase), kdtool.StepReport(-1, 0, 0, 0.0, 0.0, 0.0, 0.0))
        self._last[tracked.id, phase] = replace(report, step=max(report.step, before.step))
        if report.step > before.step:  # if a resumed run repeats a step, the first one counts
            row = {"step": report.step, **figures(report)}
            if report.seconds > before.seconds and report.tokens >= before.tokens:
                row["tokens_per_second"] = (report.tokens - before.tokens) / (report.seconds - before.seconds)
            point = {**{f"{phase}/{name}": value for name, value in row.items()}, "_timestamp": run.time}
            # W&B ignores points that the server has: those of a killed process.
            tracked.log(point, step=next(self._points[tracked.id]), commit=True)

    def kdtool_run_end(self, run: kdtool.RunInfo, status: str, report: Path | None) -> None:
        if self._run is not None and status == "done" and (self._run.folder / "results.json").exists():
            self._publish(kdtool.load(self._run.folder))
        kept = bool(self._runs) and (run.offline or self.config.mode == "offline")
        self._finish(0 if status == "done" else 1)
        if kept:
            folder = run.folder / "wandb"
            run.say(f"W&B's files are in {folder}; to upload them:\n    wandb sync {quote(str(folder))}/offline-run-*")

    def kdtool_close(self) -> None:
        self._finish(1)

    def _finish(self, exit_code: int) -> None:
        self._run, runs, self._runs = None, self._runs, {}
        for run in runs.values():
            run.finish(exit_code)

    def _open(self, arm: str, seed: int | None, role: str = "") -> wandb.Run:
        """Return the W&B run of an arm and seed, or of a teacher; other training settings make another one."""
        import wandb

        if (run := self._run) is None or (arm, seed) in self._runs:
            return self._runs[arm, seed]
        starts = [*_events(run.folder, "run_start")] or [{}]
        prints = [value for name, value in self._planned.items() if name.startswith(f"phases/{arm}-seed{seed}-")]
        key = sha256(json.dumps([run.name, starts[0].get("time"), arm, seed, *prints]).encode()).hexdigest()[:16]
        for old in run.folder.glob(f"wandb/*run-*-{key}*"):
            shutil.rmtree(old, ignore_errors=True)
        offline = run.offline or self.config.mode == "offline"
        made = wandb.init(
            mode="offline" if offline else "online", resume=None if offline else "allow", reinit="create_new",
            project=self.config.project, dir=str(run.folder), id=key, group=run.name,
            name=f"{run.name}: {arm}" + ("" if seed is None else f", seed {seed}"),
            job_type=role or arm.partition("-")[0], tags=self.config.tags or None,
            config={"run": run.name, "arm": arm, "seed": seed, "recipe": starts[-1].get("recipe", {})},
            settings=wandb.Settings(
                silent=True, console="off", symlink=False, disable_git=True, disable_code=True, x_disable_meta=True,
                disable_job_creation=True, x_save_requirements=False, x_disable_machine_info=True,
                x_disable_stats=True, finish_timeout=_WAIT, finish_timeout_raises=True,
            ),
        )  # fmt: skip
        return self._runs.setdefault((arm, seed), made)

    def _publish(self, results: kdtool.Results) -> None:
        """Log measurements, settings, samples, report, and artefacts: teacher → signals → student → export."""
        import wandb

        arms = [(arm.arm, arm.seed) for arm in results.arms]
        subjects = {subject.name: subject for subject in results.subjects}
        texts = defaultdict[tuple[str, str], dict[str, str]](dict)
        for measurement in results.measurements:
            for prompt, text in measurement.texts.items():
                texts[measurement.name, prompt][measurement.subject] = text
            if subject := subjects.get(measurement.subject):
                arm, seed, prefix = subject.arm or subject.name, subject.seed, "measurements"
                if subject.role == "artifact" and arms:  # an exported file is in the run of its student
                    (arm, seed), prefix = arms[0], f"exports/{arm.removeprefix(f'{arms[0][0]}-')}"
                label = f"{prefix}/{measurement.name}"
                ends = _some(measurement, "low", "high", "n").items()
                known = {f"{label}/{end}": value for end, value in ends if value is not None}
                self._open(arm, seed, subject.role).summary.update({label: measurement.value, **known})
        models = list(dict.fromkeys(model for row in texts.values() for model in row))
        rows = [[name, prompt, *map(row.get, models)] for (name, prompt), row in texts.items()]
        used = {part.name: {"use": part.use, "version": part.version, **part.config} for part in results.components}
        config = {"recipe": dict(results.recipe), "components": used, "environment": dict(results.environment)}
        signals = [stage for stage in results.stages if stage.name.startswith("signals/")]
        for teacher in (each for each in results.subjects if each.role == "teacher" and each.seed is None):
            for made in _inputs(results, signals):
                self._open(teacher.name, None, "teacher").log_artifact(made)
        for trained in results.arms:
            run = self._open(trained.arm, trained.seed)
            run.config.update(config, allow_val_change=True)  # type: ignore[no-untyped-call]
            run.summary["verdict"] = results.verdict
            if trained.arm == arms[0][0] and rows:
                run.log({"samples": wandb.Table(columns=["measurement", "prompt", *models], data=rows)}, commit=False)
            if results.report and (page := results.folder / results.report).is_file():
                with kdtool.open_regular(page, inside=results.folder) as file:
                    run.log({"report": wandb.Html(file.read().decode(), inject=False)})
            for made in _sources(results, signals, f"phases/{trained.arm}-seed{trained.seed}-"):
                run._log_artifact(made, is_user_created=True, use_after_commit=True)  # `use_artifact` refuses offline
            for made in _outputs(results, trained):
                run.log_artifact(made)


def _events(folder: Path, *kinds: str) -> Iterator[Mapping[str, Any]]:
    with suppress(FileNotFoundError):
        for line in json_lines(path := folder / "events.jsonl"):
            # The last line may be half written.
            if line.endswith(b"\n") and (event := parse_json(line, path, dict, event=str))["event"] in kinds:
                yield event


def _some(record: object, *names: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in names}


def _inputs(results: kdtool.Results, signals: Sequence[kdtool.StageRecord]) -> Iterator[wandb.Artifact]:
    for one in results.components:
        if one.kind == "teacher":
            about = {**_some(one, "use", "distribution", "version"), "config": dict(one.config)}
            made = _artefact(results, one.name, "model", {"role": "teacher", **about})
            with made.new_file("teacher.json") as file:
                json.dump(about, file, indent=1, default=str)
            yield made
    for stage in signals:
        yield _artefact(results, stage.name, "signals", _some(stage, "fingerprint", "seconds"), stage.path)


def _sources(results: kdtool.Results, signals: Sequence[kdtool.StageRecord], phases: str) -> Iterator[wandb.Artifact]:
    nodes = read_json(results.folder / "graph.json", dict, nodes=dict)["nodes"]
    own = [node for name, node in nodes.items() if name.startswith(phases)]
    # Others, such as "the time of …", only tell the control of equal time how many steps it has.
    names = {name for node in own for role, name in node["inputs"].items() if not role.startswith("the ")}
    used = [stage for stage in signals if stage.name in names]
    yield from _inputs(results, used) if used or any(node["parts"].get("teachers") for node in own) else ()


def _outputs(results: kdtool.Results, arm: kdtool.ArmResult) -> Iterator[wandb.Artifact]:
    work = {key: _some(phase, "steps", "tokens", "seconds") for key, phase in arm.phases.items()}
    about = {"role": arm.arm, "seed": arm.seed, "phases": work}
    yield _artefact(results, f"{arm.arm}-seed{arm.seed}", "model", about, arm.path.parent)
    for each in arm.artifacts:
        path, how = each.path, each.how_to_use.replace(str(each.path), each.path.name)
        about = {**_some(each, "format", "quantisation", "bytes"), "how_to_use": how}
        made = _artefact(results, f"export-{each.format}", "model", about, path.parent)
        card = (path if path.is_dir() else path.parent) / "README.md"
        if card.is_file():
            kdtool.open_regular(card, None, path.parent).close()
            made.add_file(str(card), name=card.name, policy="immutable")
        yield made


def _artefact(results: kdtool.Results, name: str, kind: str, about: Any, folder: Path | None = None) -> wandb.Artifact:
    """Return an artefact with its folder in the run or the store in its metadata, and its manifest, which has hashes."""
    import wandb

    made = wandb.Artifact(re.sub(r"[^\w.-]+", "-", f"{results.name}-{name}")[:128], kind, metadata=about)
    if folder is not None:
        at, root = ("run", results.folder) if folder.is_relative_to(results.folder) else ("store", folder.parents[1])
        made.metadata = {**about, "folder": f"{at}/{folder.relative_to(root).as_posix()}"}
        if (folder / "manifest.json").is_file():
            made.add_file(str(folder / "manifest.json"))
    return made
