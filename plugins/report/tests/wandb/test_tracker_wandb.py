"""The tracker `wandb`: no key in its settings, no network offline, and curves with each step once, also uploaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import wandb
from kdtool_report.wandb import WandbTracker
from kdtool_testing import TrackerConformance, make_run
from wandb_server import Uploaded, serve

KEY = "0123456789abcdef0123456789abcdef01234567"
PLAN = [kdtool.StageRecord("phases/student-seed0-train", "a" * 64, 0.0, reused=False, path=Path())]


class TestWandbTracker(TrackerConformance):
    component = WandbTracker
    entry_point = "wandb"

    @pytest.fixture(autouse=True)
    def service(self) -> None:
        """Start W&B's process, to which the tests without a network cannot connect."""
        wandb.setup()


def tracker(**settings: Any) -> WandbTracker:
    return WandbTracker(WandbTracker.Config.model_validate(settings))


def report(step: int, **terms: kdtool.TermReport) -> kdtool.StepReport:
    return kdtool.StepReport(step, 10, step * 64, step * 0.5, 3.0 / step, 1e-3, 0.5, terms)


def training(folder: Path) -> kdtool.RunInfo:
    return make_run(folder, stage="phases", label="student-seed0-train", phase="train")


def records(folder: Path) -> list[dict[str, Any]]:
    """Return what W&B's own reader finds in the only offline run."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    return [json.loads(line) for line in done.stdout.splitlines()]


def points(folder: Path) -> list[Mapping[str, Any]]:
    return [record["history"]["item"] for record in records(folder) if record["type"] == "history"]


def losses(found: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    return [(point["train/step"], point["train/loss"]) for point in found]


def start(letter: str) -> dict[str, Any]:
    """Return the event of a run's start; "a" is the fingerprint of the plan."""
    planned = {"name": PLAN[0].name, "fingerprint": letter * 64}
    return {"event": "run_start", "recipe": {"name": "coders"}, "stages": [planned]}


def step(number: int, loss: float = 1.0) -> dict[str, Any]:
    place = {"stage": "phases", "label": "student-seed0-train", "arm": "student", "seed": 0}
    time = f"2026-11-22T20:00:{number:02}.000+00:00"
    return {"event": "step_end", **place, "time": time, "report": asdict(replace(report(number), loss=loss))}


def write_events(folder: Path, *events: dict[str, Any], end: str = "") -> None:
    (folder / "events.jsonl").write_text("\n".join([*map(json.dumps, events), end]), encoding="utf-8")


@pytest.mark.parametrize(
    "setting", [{"project": KEY}, {"tags": ["a", f"key {KEY}"]}, {"project": "wandb_v1_" + "aB3_" * 9}]
)
def test_a_setting_that_looks_like_a_key_is_refused_without_showing_it(tmp_path: Path, setting: dict[str, Any]) -> None:
    (problem,) = tracker(**setting).kdtool_check(make_run(tmp_path), "start")
    assert "looks like an API key" in problem
    assert "WANDB_API_KEY" in problem
    assert "0123" not in problem
    assert "aB3" not in problem


def test_online_mode_is_announced_and_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    run = make_run(tmp_path, say=said.append)
    online = tracker(mode="online", project="coders")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "set the environment variable WANDB_API_KEY" in online.kdtool_check(run, "start")[0]
    assert not said
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert not online.kdtool_check(run, "start")
    assert said == [
        "wandb: mode is online: settings, curves, measurements, samples and report are sent to W&B, project coders"
    ]
    assert not tracker().kdtool_check(run, "start")
    assert len(said) == 1, "offline there is nothing to announce"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n", encoding="utf-8")
    (problem,) = online.kdtool_check(run, "start")
    assert re.search(
        r"W&B would read .*wandb.settings, .* to another server: remove it, and set .*WANDB_BASE_URL", problem
    )


def test_a_run_without_a_network_is_tracked_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    said: list[str] = []
    run, told = make_run(tmp_path, offline=True, say=said.append), tracker(mode="online")
    told.kdtool_run_start(run, PLAN)
    assert "nothing is sent" in said[0]
    told.kdtool_step_end(training(tmp_path), report(1))
    told.kdtool_run_end(run, "failed", None)
    assert len(points(tmp_path)) == 1
    files = said[1].partition("wandb sync ")[2]
    assert [path.suffix for path in Path("/").glob(f"{files}/*.wandb".removeprefix("/"))] == [".wandb"]


def test_points_hold_shares_rates_and_each_step_once(tmp_path: Path) -> None:
    terms = {
        "ce": kdtool.TermReport(2.0, 1.0, 3.0),
        "kl": kdtool.TermReport(float("nan"), 0.5, 1.0),
        "hidden": kdtool.TermReport(1.0, 0.5),
    }
    told = tracker()
    told.kdtool_run_start(make_run(tmp_path), PLAN)
    for step, seconds in ((1, 1.0), (2, 1.5), (2, 0.8), (3, 1.0)):  # a resumed run repeats step 2
        metrics = {"perplexity.bits-per-byte": 0.9} if step > 1 else {}
        made = kdtool.StepReport(step, 3, step * 100, seconds, 2.5, 0.1, 1.0, terms, metrics, 3 << 29)
        told.kdtool_step_end(training(tmp_path), made)
    told.kdtool_run_end(make_run(tmp_path), "failed", None)
    first, second, third = points(tmp_path)
    assert first["train/gradient_shares/ce"] == 0.75
    assert first["train/gradient_shares/kl"] == 0.25
    assert "train/gradient_shares/hidden" not in first
    assert str(first["train/terms/kl"]).lower() == "nan"
    assert first["train/tokens_per_second"] == 100
    assert second["train/tokens_per_second"] == 200
    assert second["train/validation/perplexity.bits-per-byte"] == 0.9
    assert second["train/memory_gib"] == 1.5
    assert third["train/tokens_per_second"] == pytest.approx(500), "of the resumed run's own step before"


def test_earlier_steps_of_the_same_training_are_logged_first(tmp_path: Path) -> None:
    of_others = [start("b"), step(1, 7.0), step(2, 7.0), step(3, 7.0)]
    killed = [start("a"), step(1), step(2), {"event": "message", "text": "é"}, step(3)]
    write_events(tmp_path, *of_others, *killed, start("a"), step(3, 9.0), step(4), end='{"event": "step_e')
    for _ in range(2):
        told = tracker()
        told.kdtool_run_start(make_run(tmp_path), PLAN)
        for number in (3, 4, 5):
            told.kdtool_step_end(training(tmp_path), report(number))
        told.kdtool_run_end(make_run(tmp_path), "failed", None)
        found = points(tmp_path)  # of the only offline run: the one before is deleted
        assert losses(found) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 0.6)]
        (begun,) = (record["run"] for record in records(tmp_path) if record["type"] == "run")
        assert begun["config"]["update"]["recipe"] == {"name": "coders"}
        assert [point["_timestamp"] % 60 for point in found[:4]] == [1, 2, 3, 4], "when they were trained"


def track(folder: Path, steps: range, *, killed: bool = False, **settings: Any) -> None:
    """Log steps; the earlier ones are in the event log. A run that is killed has no end."""
    write_events(folder, start("a"), *map(step, range(1, steps[0])))
    told = tracker(**settings)
    told.kdtool_run_start(make_run(folder), PLAN)
    for number in steps:
        told.kdtool_step_end(training(folder), replace(report(number), loss=1.0))
    if not killed:
        told.kdtool_run_end(make_run(folder), "failed", None)
    told.kdtool_close()


def check_curve(runs: Mapping[str, Uploaded], last: int) -> Uploaded:
    """Return the only run, whose curve ends with step `last`."""
    (run,) = runs.values()
    assert losses(run.history) == [(number, 1.0) for number in range(1, last + 1)]
    return run


@pytest.mark.slow
def test_an_online_run_that_is_killed_and_resumed_is_one_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as (url, runs):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # reads the variables again
        for steps in (range(1, 4), range(3, 6), range(5, 10)):
            track(tmp_path, steps, killed=steps[-1] < 9, mode="online", tags=["nightly"])
            run = check_curve(runs, steps[-1])
            assert run.lines == steps[-1], "no point is sent again"
        assert run.settings["displayName"] == "test: student, seed 0"
        assert run.settings["tags"] == ["nightly"]
    wandb.teardown()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
