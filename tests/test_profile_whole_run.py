"""The tracker `profile` on a real run: the same weights and scores to the bit, and times that add up."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import kdtool
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def short(recipe: dict[str, Any]) -> dict[str, Any]:
    """The small recipe, whose teacher runs beside the student, without what follows the machine's speed."""
    plain = {key: value for key, value in recipe.items() if key not in {"signals", "control"}}
    weightings: dict[str, Any] = {"position": {}}
    return {
        **plain,
        "train": {**recipe["train"], "weightings": weightings},
        "trainer": {**recipe["trainer"], "compile": "off"},
        "evaluators": {"perplexity": {"documents": 3, "characters": 400}},
    }


@pytest.mark.parametrize("tracker", ["profile", "profile-losses"])
def test_a_profile_changes_no_weight_and_no_score(short: dict[str, Any], tracker: str) -> None:
    plain = kdtool.run(short, store="plain")
    start = time.perf_counter()
    profiled = kdtool.run({**short, "name": "profiled", "trackers": {tracker: {}}}, store="profiled")
    wall = time.perf_counter() - start
    assert weights(profiled.folder) == weights(plain.folder)
    assert scores(profiled) == scores(plain)

    found = json.loads((profiled.folder / "profile" / "profile.json").read_text(encoding="utf-8"))
    foreground = [hook for hook in found["hooks"] if not hook["background"]]
    assert sum(hook["own_seconds"] for hook in foreground) == pytest.approx(found["seconds"], rel=1e-6)
    assert found["seconds"] <= wall
    assert all(0 <= hook["own_seconds"] <= hook["seconds"] + 1e-9 for hook in foreground if hook["component"])
    hooks = {(hook["component"], hook["hook"]): hook for hook in foreground}
    assert hooks["trainer", "kdtool_train"]["seconds"] > hooks["teacher", "kdtool_signal"]["seconds"] > 0
    assert hooks["teacher", "kdtool_signal"]["calls"] >= 6
    losses = {component for component, hook in hooks if hook in ("kdtool_token_loss", "kdtool_token_gradient")}
    measured = {"train.losses.forward-kl", "train.losses.ce"} if tracker == "profile-losses" else set()
    assert losses == measured
    assert (("train.weightings.position", "kdtool_token_weight") in hooks) is bool(measured)


def test_a_profile_can_be_switched_on_and_off_without_training_again(short: dict[str, Any]) -> None:
    kdtool.run(short)
    choices: list[dict[str, Any]] = [{"profile": {}}, {}]
    for trackers in choices:
        assert {stage.reused for stage in kdtool.run({**short, "trackers": trackers}).stages} == {True}


def weights(folder: Path) -> dict[str, bytes]:
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("model.safetensors")}
    assert found
    return found


def scores(results: kdtool.Results) -> dict[tuple[str, str, str], float]:
    return {(found.subject, found.name, found.unit): found.value for found in results.measurements}
