"""The forecast of a check is that of the run's graph: the same stages, by the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
from toy_recipe import Recipe, use

ESTIMATING = """
import kdtool
import toy


class Cache(toy.Cache):
    def kdtool_estimate(self, run, ahead):
        for signals in ahead.signals:
            yield kdtool.Estimate("recording", (signals.stage,), 1, disk_bytes=100)


class Trainer(toy.Trainer):
    def kdtool_estimate(self, run, ahead):
        yield kdtool.Estimate("training", (ahead.phase.stage,), 1)


class Nats(toy.Nats):
    def kdtool_estimate(self, run, ahead):
        yield kdtool.Estimate("measured student", ("scores",), 1)


class Export(toy.Export):
    def kdtool_estimate(self, run, ahead):
        yield kdtool.Estimate("exported student", ("exports",), 1)
"""


@pytest.fixture
def estimating(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The toy recipe with two phases, and components that estimate one byte in each stage that they make."""
    (tmp_path / "estimating.py").write_text(ESTIMATING, encoding="utf-8")
    use = "./estimating.py"
    train = recipe["train"]
    recipe |= {"signals": {"use": f"{use}:Cache"}, "train": {"first": train, "second": train}}
    recipe["trainer"]["use"] = f"{use}:Trainer"
    recipe["evaluators"] = {name: {"use": f"{use}:Nats"} for name in ("nats", "again")}
    return recipe | {"exporters": {name: {"use": f"{use}:Export"} for name in ("json", "other")}}


def stages_with(found: Mapping[str, Any], part: str) -> list[str]:
    return [stage for stage, parts in found["forecast"]["memory"]["moments"].items() if part in parts]


@pytest.mark.parametrize(("own_text", "recordings"), [(False, 1), (True, 2)])
def test_a_forecast_has_the_stages_of_the_run(estimating: Recipe, own_text: bool, recordings: int) -> None:
    if own_text:
        second = {**estimating["train"]["second"], "corpus": use("Corpus", documents=9)}
        estimating["train"] = {**estimating["train"], "second": second}
    found = kdtool.check(estimating)
    assert found["stages"] == {stage.name: stage.title for stage in kdtool.plan(estimating)}
    names = [stage.name for stage in kdtool.run(estimating).stages]
    assert list(found["forecast"]["memory"]["moments"]) == list(found["stages"]) == names
    assert stages_with(found, "recording") == [name for name in names if name.startswith("signals/")]
    assert stages_with(found, "training") == [name for name in names if name.startswith("phases/")]
    assert stages_with(found, "exported student") == [name for name in names if name.startswith("exports/")]
    scores = [name for name in names if name.startswith("scores/") and not name.endswith("teacher")]
    assert stages_with(found, "measured student") == scores
    recorded = [spent["bytes"] for spent in found["forecast"]["disk"] if spent["what"] == "recording"]
    assert recorded == [100] * recordings


def test_a_stage_holds_what_its_own_component_needs(estimating: Recipe) -> None:
    moments = kdtool.check(estimating)["forecast"]["memory"]["moments"]
    for stage in ("exports/json", "exports/other", "scores/nats-student-seed0", "scores/again-student-seed1"):
        assert {part: size for part, size in moments[stage].items() if size == 1} in (
            {"exported student": 1},
            {"measured student": 1},
        ), "not twice, once for each component of the kind"
