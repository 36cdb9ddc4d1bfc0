"""The W&B runs of one run of kdtool: one for each arm and seed, and one for each measured teacher.

`events.jsonl` is the source of truth. When a run starts, its steps are logged first, then those that arrive. Offline,
each process thus rewrites the whole W&B run and deletes its older files: with several files, `wandb sync` would let the
last one replace the others. Online, points that the server already has are left out. A step is one point of the curves,
even if a killed and resumed run repeats it.

The id of a W&B run comes from the folder's identity, arm, seed, and the fingerprints of its phases: a resumed run
continues it, and a recipe with other training settings begins another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import uuid4

import kdtool
import wandb
from kdtool_essentials.curves import figures
from pydantic import TypeAdapter

Event = Mapping[str, Any]


class Member(NamedTuple):
    """A W&B run of the group: an arm with its seed, or a teacher, which has none."""

    arm: str
    seed: int | None

    @property
    def title(self) -> str:
        """The name in W&B, after that of the run."""
        return self.arm if self.seed is None else f"{self.arm}, seed {self.seed}"


class TrackedRun:
    """One W&B run. Its points are numbered, so that a resumed process knows which ones the server has."""

    def __init__(self, run: wandb.Run, folder: Path) -> None:
        self.run = run
        self.folder = folder
        self._logged = 0
        self._phases: dict[str, Rows] = {}

    def step(self, event: Event) -> None:
        """Log a training step, unless it was logged before."""
        phase = event["label"].removeprefix(f"{event['arm']}-seed{event['seed']}-") or "train"
        rows = self._phases.get(phase)
        if rows is None:
            rows = self._phases[phase] = Rows(phase)
            self.run.define_metric(rows.axis)
            self.run.define_metric(f"{phase}/*", step_metric=rows.axis)
        if row := rows.row(event["report"]):
            self._log({**row, "_timestamp": datetime.fromisoformat(event["time"]).timestamp()})

    def show(self, media: Mapping[str, Any]) -> None:
        """Log tables and pages, after all points of curves."""
        self._logged = max(self._logged, self.run.starting_step)
        self._log(media)

    def _log(self, row: Mapping[str, Any]) -> None:
        if self._logged >= self.run.starting_step:
            self.run.log(dict(row), step=self._logged, commit=True)
        self._logged += 1


class Tracking:
    """Opens W&B runs as they are needed, and closes them all at the end."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        self._identity = _identity(folder / "wandb")
        self._runs: dict[Member, TrackedRun] = {}
        self._fingerprints: dict[str, str] | None = None
        self._recipe: Mapping[str, Any] = {}

    def take(self, event: Event) -> None:
        """Log an event."""
        if event["event"] == "run_start":
            self._start(event)
        elif event["event"] == "step_end":
            self._step(event)

    def open(self, member: Member, role: str = "") -> TrackedRun:
        """Return the W&B run of a member; `role` is its type: student, control or teacher."""
        if member not in self._runs:
            self._runs[member] = self._open(member, role or member.arm.partition("-")[0])
        return self._runs[member]

    def finish(self, status: str) -> None:
        """Close all W&B runs."""
        for tracked in self._runs.values():
            tracked.run.finish(exit_code=0 if status == "done" else 1)
        self._delete_older()
        self._runs.clear()

    def _start(self, event: Event) -> None:
        planned = _fingerprints(event)
        if planned == self._fingerprints:
            return
        self.finish("interrupted")
        self._fingerprints = planned
        self._recipe = _recipe_of(self.folder / "events.jsonl")
        for earlier in _steps_of(self.folder / "events.jsonl", planned):
            self._step(earlier)
        self._delete_older()

    def _step(self, event: Event) -> None:
        self.open(Member(event["arm"], event["seed"])).step(event)

    def _open(self, member: Member, role: str) -> TrackedRun:
        name, online = self.settings["name"], self.settings["mode"] == "online"
        run = wandb.init(
            mode=self.settings["mode"],
            project=self.settings["project"],
            entity=self.settings["entity"],
            dir=str(self.folder),
            id=self._id(member),
            name=f"{name}: {member.title}",
            group=name,
            job_type=role,
            tags=self.settings["tags"] or None,
            notes=self.settings["notes"] or None,
            config={
                "run": name,
                "arm": member.arm,
                "seed": member.seed,
                "recipe": self._recipe,
                "stages": stages_of(self.folder, member),
            },
            resume="allow" if online else None,
            reinit="create_new",
            settings=self._quiet(),
        )
        return TrackedRun(run, Path(run.settings.sync_dir))

    def _quiet(self) -> wandb.Settings:
        return wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            use_dot_wandb=False,
            x_save_requirements=False,
            x_disable_meta=True,
            x_disable_machine_info=not self.settings["system_metrics"],
            x_disable_stats=not self.settings["system_metrics"],
            x_stats_pid=os.getppid(),
        )

    def _id(self, member: Member) -> str:
        trained = f"phases/{member.arm}-seed{member.seed}-"
        prints = [print_ for name, print_ in (self._fingerprints or {}).items() if name.startswith(trained)]
        text = json.dumps([self._identity, *member, *prints])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _delete_older(self) -> None:
        """Delete files that earlier processes wrote for the open W&B runs; the new files contain all of it."""
        for tracked in self._runs.values():
            for folder in tracked.folder.parent.glob(f"*run-*-{tracked.run.id}*"):
                if folder != tracked.folder:
                    shutil.rmtree(folder, ignore_errors=True)


def _identity(folder: Path) -> str:
    """Return the identity of the run's folder, which it keeps when it is moved."""
    path = folder / "identity"
    with suppress(FileExistsError), path.open("x", encoding="ascii") as file:
        file.write(uuid4().hex)
    return path.read_text(encoding="ascii")


def _fingerprints(start: Event) -> dict[str, str]:
    """Return the fingerprint of each phase of training that a run plans, by the stage's name."""
    return {each["name"]: each["fingerprint"] for each in start["stages"] if each["name"].startswith("phases/")}


def _steps_of(path: Path, planned: Mapping[str, str]) -> Iterator[Event]:
    """Yield the logged steps of the trainings that are planned now; those of other settings are left out."""
    current: dict[str, str] = {}
    for event in _events(path):
        if event.get("event") == "run_start":
            current = _fingerprints(event)
        elif event.get("event") == "step_end" and _is_of(event, current, planned):
            yield event


def _recipe_of(path: Path) -> Mapping[str, Any]:
    """Return the recipe of the last process of the run, with everything that it extends, if the log has it."""
    starts = [event for event in _events(path) if event.get("event") == "run_start"]
    return dict(starts[-1].get("recipe", {})) if starts else {}


def _is_of(event: Event, current: Mapping[str, str], planned: Mapping[str, str]) -> bool:
    name = f"{event['stage']}/{event['label']}"
    return current.get(name) == planned.get(name)


def _events(path: Path) -> Iterator[Event]:
    with suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):  # torn by a kill
                yield json.loads(line)


def stages_of(folder: Path, member: Member) -> dict[str, Any]:
    """Return the stages that make a member, by name, each with its settings and their defaults, from the run's graph."""
    try:
        nodes = json.loads((folder / "graph.json").read_text(encoding="utf-8"))["nodes"]
    except (OSError, ValueError, KeyError):
        return {}
    wanted = [name for name in nodes if name.startswith(f"phases/{member.arm}-seed{member.seed}-")]
    for name in wanted:
        for role, source in nodes[name]["inputs"].items():
            # Stages under "the time of …" only tell the control of equal time how many steps it has.
            if source not in wanted and not role.startswith("the "):
                wanted.append(source)
    return {name: _for_others(nodes[name]["parts"]) for name in wanted}


def _for_others(value: Any) -> Any:
    """Leave out the hashes of components' code, which say nothing in a table of settings; write the user's home as `~`."""
    if isinstance(value, dict):
        hidden = {"source", "libraries", "class", "kind"} if "config" in value else set()
        return {key: _for_others(own) for key, own in cast("dict[str, Any]", value).items() if key not in hidden}
    if isinstance(value, list):
        return [_for_others(own) for own in value]
    if isinstance(value, str) and Path(value).is_relative_to(Path.home()):
        return Path("~", Path(value).relative_to(Path.home())).as_posix()
    return value


_REPORT: TypeAdapter[kdtool.StepReport] = TypeAdapter(kdtool.StepReport)


class Rows:
    """Makes the points of one phase. If a resumed run repeats a step, the first point counts."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._last = -1
        self._tokens, self._seconds = 0, 0.0

    @property
    def axis(self) -> str:
        """The step axis of all curves of the phase."""
        return f"{self._phase}/step"

    def row(self, event: Mapping[str, Any]) -> dict[str, float] | None:
        """Return the point of a logged step, by curve; None if the step was logged before.

        `tokens_per_second` is measured since the previously logged step.
        """
        report = _REPORT.validate_python(event)
        gained, spent = report.tokens - self._tokens, report.seconds - self._seconds
        self._tokens, self._seconds = report.tokens, report.seconds
        if report.step <= self._last:
            return None
        self._last = report.step
        numbers = {"step": report.step, **figures(report)}
        if spent > 0 and gained >= 0:
            numbers["tokens_per_second"] = gained / spent
        return {f"{self._phase}/{name}": value for name, value in numbers.items()}
