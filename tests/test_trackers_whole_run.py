"""Event files and the database of a real run, by TensorBoard's and trackio's own readers, hold what events.jsonl holds."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import kdtool
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio.sqlite_storage import SQLiteStorage
from whole_runs import curves_of

pytestmark = pytest.mark.slow

ARMS = ("student", "control", "control-time")


def test_every_curve_and_measurement_is_read_back(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[object] = []

    def refuse(*arguments: object) -> None:
        attempts.append(arguments)
        raise OSError("the network is unreachable")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    samples = {"tokens": 4, "prompts": ["def f(", "import"]}
    recipe["evaluators"] = {"perplexity": {"limit": 3, "characters": 400}, "samples": samples}
    recipe["trainer"] |= {"validation": {"every": 2, "evaluators": ["perplexity"]}, "gradient_norms_every": 2}
    recipe["trackers"] = ["tensorboard", "trackio"]
    results = kdtool.run(recipe)
    assert attempts == []
    assert not list(tmp_path.glob("home/**/*trackio*"))
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", results.folder / "trackio")  # chosen at the import

    for arm in ARMS:
        wanted, single, double = curves_of(results.folder, arm), tensorboard(results.folder, arm), trackio(arm)
        assert {"train/loss", "train/validation/perplexity.perplexity"} <= wanted.keys()
        for name, curve in wanted.items():
            assert double[name] == curve, (arm, name)
            assert single[name] == pytest.approx(curve, rel=1e-6), (arm, name)
    for found in results.measurements:
        if found.subject in ARMS:
            tag = f"measurements/{found.name}"
            assert trackio(found.subject)[tag] == {0: found.value}
            assert tensorboard(results.folder, found.subject)[tag] == pytest.approx({0: found.value}, rel=1e-6)
        if found.subject == "student" and found.texts:
            text = json.dumps(SQLiteStorage.get_logs("small", "student-seed0")[-1][f"samples/{found.name}"])
            assert all(prompt in text for prompt in found.texts)


def tensorboard(folder: Path, arm: str) -> dict[str, dict[int, float]]:
    """Return all scalars of a series; a step that is there twice fails."""
    events = EventAccumulator(str(folder / "tensorboard" / f"{arm}-seed0"), size_guidance={"scalars": 0}).Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert all(len(dict(curve)) == len(curve) for curve in found.values())
    return {tag: dict(curve) for tag, curve in found.items()}


def trackio(arm: str) -> dict[str, dict[int, float]]:
    """Return all numbers of a series; a step that is there twice fails."""
    found: dict[str, dict[int, float]] = {}
    for log in SQLiteStorage.get_logs("small", f"{arm}-seed0"):
        for name, value in log.items():
            if isinstance(value, float):
                assert log["step"] not in found.setdefault(name, {})
                found[name][log["step"]] = value
    return found
