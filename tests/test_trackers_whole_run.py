"""Event files and the database of a real run, by TensorBoard's and trackio's own readers, hold what events.jsonl holds."""

from __future__ import annotations

import json
import math
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kdtool
import pytest
from run_process import command, recipe_with_faults
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio.sqlite_storage import SQLiteStorage

pytestmark = pytest.mark.slow

ARMS = ("student", "control", "control-time")
Curves = dict[str, dict[int, float]]
"""Values by step, by name."""


@pytest.fixture
def tracked(recipe: dict[str, Any]) -> dict[str, Any]:
    """The small recipe with validation, gradient norms, samples and both trackers."""
    evaluators = {
        "perplexity": {"documents": 3, "characters": 400},
        "samples": {"tokens": 4, "prompts": ["def f(", "import"]},
    }
    validation = {"every": 2, "evaluators": ["perplexity"]}
    trainer = {**recipe["trainer"], "validation": validation, "gradient_norms_every": 2}
    trackers = [*recipe["trackers"], "tensorboard", "trackio"]
    return {**recipe, "evaluators": evaluators, "trainer": trainer, "trackers": trackers}


def test_every_curve_and_measurement_is_read_back(
    tracked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[object] = []

    def refuse(*arguments: object) -> None:
        attempts.append(arguments)
        raise OSError("the network is unreachable")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    results = kdtool.run(tracked)
    assert attempts == []
    assert not list(tmp_path.glob("home/**/*trackio*"))
    same_curves(results.folder)
    same_measurements(results)

    before = [trackio(results.folder, f"{arm}-seed0") for arm in ARMS]
    again = kdtool.run(tracked)
    same_curves(again.folder)
    same_measurements(again)
    assert [trackio(again.folder, f"{arm}-seed0") for arm in ARMS] == before

    changed = kdtool.run(tracked, {"train.steps": 4, "trainer.learning_rate": 1e-3})
    same_curves(changed.folder)
    assert list(tensorboard(changed.folder, "student-seed0")["train/loss"]) == [1, 2, 4]


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_killed_three_times_each_arm_has_one_curve_without_gaps(recipe: dict[str, Any], tmp_path: Path) -> None:
    file = recipe_with_faults(recipe, tmp_path)  # 8 steps, all of them logged, a checkpoint after steps 3 and 6
    content = json.loads(file.read_text(encoding="utf-8"))
    killer = {"use": f"{Path(__file__).with_name('killer.py')}:Killer"}
    trackers: dict[str, Any] = {name: {} for name in (*recipe["trackers"], "tensorboard", "trackio")} | {
        "killer": killer
    }
    file.write_text(json.dumps({**content, "trackers": trackers}), encoding="utf-8")
    out, store, log = tmp_path / "out", tmp_path / "store", tmp_path / "log"
    for step in (2, 5, 8):
        code, said = command(file, out, store, log, KILL_AT=f"phases step {step}")
        assert code == -signal.SIGKILL, said
    code, said = command(file, out, store, log)
    assert code == 0, said
    logged = [event["report"]["step"] for event in events(out / "small") if event["arm"] == "student"]
    assert len(logged) > 8, "steps were logged again"
    assert sorted(logged_last(out / "small", "student")["train/loss"]) == list(range(1, 9))
    same_curves(out / "small")


def same_curves(folder: Path) -> None:
    """Compare every number of every logged step; TensorBoard's are in single precision."""
    for arm in ARMS:
        wanted, stored = logged_last(folder, arm), trackio(folder, f"{arm}-seed0")
        assert wanted["train/loss"]
        assert curves(stored) == wanted, arm
        single = {name: {step: _single(value) for step, value in curve.items()} for name, curve in wanted.items()}
        assert curves(tensorboard(folder, f"{arm}-seed0")) == single, arm


def same_measurements(results: kdtool.Results) -> None:
    """Compare the value, interval and texts of every measurement."""
    series = {arm: f"{arm}-seed0" for arm in ARMS}
    for found in results.measurements:
        name = series.get(found.subject, found.subject)
        wanted = {"": found.value, "/low": found.low, "/high": found.high}
        for end, value in wanted.items():
            if value is not None:
                tag = f"measurements/{found.name}{end}"
                assert trackio(results.folder, name)[tag] == {0: value}
                assert tensorboard(results.folder, name)[tag] == {0: _single(value)}
        for prompt, completion in found.texts.items():
            text = json.dumps(logs(results.folder, name)[-1][f"samples/{found.name}"])
            assert prompt in text
            assert json.dumps(completion.splitlines()[0])[1:-1] in text
    session = accumulator(results.folder, "student-seed0").SummaryMetadata("_hparams_/session_start_info")
    assert b"trainer.learning_rate" in session.plugin_data.content
    with storage(results.folder):
        config = SQLiteStorage.get_run_config("small", "student-seed0")
    assert config is not None
    assert (config["train.train.steps"], config["_Group"]) == (6, "student")


def logged_last(folder: Path, arm: str) -> Curves:
    """Return the numbers of the event log, of each step the last ones, that no earlier step came after."""
    found: Curves = {}
    for event in events(folder):
        if event["arm"] == arm:
            report = event["report"]
            for curve in found.values():
                for step in [step for step in curve if step >= report["step"]]:
                    del curve[step]
            for name, value in _numbers(report):
                found.setdefault(f"train/{name}", {})[report["step"]] = float(value)
    return {name: curve for name, curve in found.items() if curve}


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "step_end"]


def _numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("loss", "learning_rate", "gradient_norm", "tokens", "seconds"):
        yield name, report[name]
    yield "tokens_per_second", report["tokens"] / report["seconds"]
    yield "memory_gib", report["memory"] / 2**30
    norms = {name: term["gradient_norm"] for name, term in report["terms"].items() if term["gradient_norm"] is not None}
    for name, term in report["terms"].items():
        yield f"terms/{name}", term["value"]
        yield f"weights/{name}", term["weight"]
    for name, norm in norms.items():
        yield f"gradient_norms/{name}", norm
        yield f"gradient_shares/{name}", norm / sum(norms.values())
    yield from report["figures"].items()
    yield from ((f"validation/{name}", value) for name, value in report["metrics"].items())


def curves(found: Curves) -> Curves:
    return {name: curve for name, curve in found.items() if name.startswith("train/")}


def accumulator(folder: Path, series: str) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / series), size_guidance={"scalars": 0}).Reload()


def tensorboard(folder: Path, series: str) -> Curves:
    """Return all scalars of a series; a step that is there twice fails."""
    events = accumulator(folder, series)
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert all(len(dict(curve)) == len(curve) for curve in found.values())
    return {tag: dict(curve) for tag, curve in found.items()}


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """Let trackio read the databases of a run; it chooses its folder once, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trackio.sqlite_storage.TRACKIO_DIR", folder / "trackio")
        yield


def logs(folder: Path, series: str) -> list[dict[str, Any]]:
    with storage(folder):
        found: list[dict[str, Any]] = SQLiteStorage.get_logs("small", series)
    return found


def trackio(folder: Path, series: str) -> Curves:
    """Return all numbers of a series; a step that is there twice fails."""
    found: Curves = {}
    for log in logs(folder, series):
        for name, value in log.items():
            if isinstance(value, float):
                assert log["step"] not in found.setdefault(name, {})
                found[name][log["step"]] = value
    return found


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0]) if math.isfinite(value) else value
