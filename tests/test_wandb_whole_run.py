"""A run tracked by W&B, offline: its files, read by W&B's own reader, hold what kdtool's own files hold."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import kdtool
import pytest
from run_process import command, recipe_with_faults
from wandb_files import OfflineRun, curve, offline_runs
from whole_runs import curves_of

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef0123456789abcdef01234567"
ARMS = ("student", "control", "control-time")


@pytest.fixture
def tracked(recipe: dict[str, Any]) -> dict[str, Any]:
    """The small recipe with validation and samples, in short measurements."""
    evaluators = {
        "perplexity": {"limit": 3, "characters": 400},
        "samples": {"tokens": 4, "prompts": ["def f(", "import"]},
    }
    trainer = {**recipe["trainer"], "validation": {"every": 2, "evaluators": ["perplexity"]}}
    tracker = {"project": "coders", "tags": ["nightly"]}
    return {**recipe, "evaluators": evaluators, "trainer": trainer, "trackers": {"wandb": tracker}}


def test_files_hold_what_the_run_s_own_files_hold(
    tracked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setitem(sys.modules, "openai", ModuleType("openai"))  # W&B advertises Weave beside it
    results = kdtool.run(tracked)
    runs = offline_runs(results.folder)
    assert runs.keys() == {*(f"{arm}, seed 0" for arm in ARMS), "teacher"}
    same_curves(results.folder, runs)
    own = runs["student, seed 0"]
    said = "".join(capfd.readouterr())
    assert (said.count("wandb sync"), said.count("wandb:")) == (1, 0), "the tracker's line, and none of W&B's"
    assert not [path for path in (results.folder / "wandb").iterdir() if path.is_symlink()]

    assert {run.run["run_group"] for run in runs.values()} == {"small"}
    assert [own.run[key] for key in ("project", "tags", "job_type")] == ["coders", ["nightly"], "student"]
    assert own.config["recipe"]["trainer"] == results.recipe["trainer"]
    assert own.config["components"]["trainer"]["batch"] == 2
    assert own.config["components"]["trainer"]["weight_decay"] > 0, "defaults, too"

    found = {(one.name, one.subject): one for one in results.measurements}
    for title, subject in (("student, seed 0", "student"), ("control, seed 0", "control"), ("teacher", "teacher")):
        measured = found["perplexity", subject]
        summary = runs[title].summary
        assert summary["measurements/perplexity"] == pytest.approx(measured.value, rel=1e-12)
        assert summary["measurements/perplexity/low"] == pytest.approx(measured.low, rel=1e-12)
        assert summary["measurements/perplexity/high"] == pytest.approx(measured.high, rel=1e-12)
    exported = found["perplexity", "student-safetensors"]
    assert own.summary["exports/safetensors/perplexity"] == pytest.approx(exported.value, rel=1e-12)

    table = json.loads((own.folder / "files" / own.summary["samples"]["path"]).read_text(encoding="utf-8"))
    assert table["columns"] == [
        "measurement", "prompt", "teacher", "student", "student-safetensors", "control", "control-time"
    ]  # fmt: skip
    assert {row[1]: row[3] for row in table["data"]} == dict(found["samples.distinct-words", "student"].texts)
    page = own.folder / "files" / own.summary["report"]["path"]
    assert page.read_text(encoding="utf-8") == (results.folder / "report.html").read_text(encoding="utf-8")

    assert artefacts(runs["teacher"]) == {"small-teacher": False, "small-signals-teacher": False}
    assert artefacts(own) == {
        "small-teacher": True, "small-signals-teacher": True, "small-student-seed0": False,
        "small-export-safetensors": False,
    }  # fmt: skip
    assert artefacts(runs["control-time, seed 0"]) == {"small-control-time-seed0": False}
    (export,) = (one for one in own.artifacts if one["name"] == "small-export-safetensors")
    parts = {one["path"]: one.get("ref") for one in export["manifest"]["contents"]}
    assert parts["README.md"] is None
    assert parts["manifest.json"] is None
    place = json.loads(export["metadata"])["folder"].removeprefix("run/")
    assert (results.folder / place / "manifest.json").is_file()
    for run in runs.values():
        about = [
            (made.get("metadata"), [one.get("ref") for one in made["manifest"]["contents"]]) for made in run.artifacts
        ]
        sent = json.dumps([run.run, run.config, run.summary, about], default=str) + page.read_text(encoding="utf-8")
        assert str(results.folder.parent) not in sent

    files = [path for path in (results.folder / "wandb").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".safetensors"], "weights are not copied"
    assert not [path for path in results.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]

    again = kdtool.run(tracked)
    rewritten = offline_runs(again.folder)
    assert {title: run.run["run_id"] for title, run in rewritten.items()} == {
        title: run.run["run_id"] for title, run in runs.items()
    }
    same_curves(again.folder, rewritten)
    assert rewritten["student, seed 0"].folder != own.folder, "written anew, and the older files are gone"

    changed = kdtool.run(tracked, {"trainer.learning_rate": 1e-3})
    folders = [*(changed.folder / "wandb").glob("offline-run-*")]
    assert len(folders) == len(ARMS) * 2 + 1, "another training is another W&B run; the teacher is the same"


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_killed_three_times_each_arm_has_one_curve_without_gaps(recipe: dict[str, Any], tmp_path: Path) -> None:
    file = recipe_with_faults(recipe, tmp_path)  # 8 steps, all of them logged, a checkpoint after steps 3 and 6
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "trackers": {"wandb": {}, **content["trackers"]}}), encoding="utf-8")
    out, store, log = tmp_path / "out", tmp_path / "store", tmp_path / "log"
    for step in (2, 5, 8):
        code, said = command(file, out, store, log, FAULT=f"-1 kill-at-any-step {step}")
        assert code == -signal.SIGKILL, said
    code, said = command(file, out, store, log)
    assert code == 0, said
    runs = offline_runs(out / "small")
    same_curves(out / "small", runs)
    steps = {arm: [*curve(runs[f"{arm}, seed 0"], "train/loss")] for arm in ARMS}
    assert steps["student"] == steps["control"] == list(range(1, 9))
    assert steps["control-time"] == list(range(1, len(steps["control-time"]) + 1))
    assert [*curve(runs["student, seed 0"], "train/memory_gib")] == list(range(1, 9))
    repeated = [json.loads(line) for line in (out / "small" / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    student = [one["report"]["step"] for one in repeated if one["event"] == "step_end" and one["arm"] == "student"]
    assert len(student) > 8, "steps were repeated"


def same_curves(folder: Path, runs: dict[str, OfflineRun]) -> None:
    """Compare every figure of every logged step with the event log."""
    for arm in ARMS:
        run = runs[f"{arm}, seed 0"]
        for name, wanted in curves_of(folder, arm).items():
            assert curve(run, name) == wanted, (arm, name)
        for step, row in ((point["train/step"], point) for point in run.history if "train/step" in point):
            shares = [value for name, value in row.items() if name.startswith("train/gradient_shares/")]
            assert not shares or sum(shares) == pytest.approx(1), step


def artefacts(run: OfflineRun) -> dict[str, bool]:
    """Return the artefacts of a W&B run by name: true if it used one, false if it made it."""
    return {
        one["name"]: one.get("use_after_commit", False) for one in run.artifacts if one["type"] in {"model", "signals"}
    }
