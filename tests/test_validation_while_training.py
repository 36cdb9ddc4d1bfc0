"""Validation while a student learns: it is curves and a choice, and changes nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

WATCHED = "perplexity.bits-per-byte"
EVERY_TWO = {"every": 2, "evaluators": ["perplexity"]}


@pytest.fixture
def short(recipe: dict[str, Any]) -> dict[str, Any]:
    """A student alone, nothing exported, perplexity of one kind."""
    left_out = {"control", "exporters", "reporter"}
    recipe = {key: value for key, value in recipe.items() if key not in left_out}
    recipe["trainer"] |= {"compile": "off"}
    return {**recipe, "evaluators": {"perplexity": {"documents": 3, "characters": 400, "split": "validation"}}}


def weights(results: kdtool.Results) -> Mapping[str, Any]:
    return load_file(results.arms[0].path / "model.safetensors")


def test_measuring_changes_neither_weights_nor_what_is_told_of_steps(short: dict[str, Any], tmp_path: Path) -> None:
    plain = kdtool.run(short, out=tmp_path / "plain")
    measured = kdtool.run(
        {**short, "trainer": {**short["trainer"], "validation": EVERY_TWO}}, out=tmp_path / "measured"
    )
    for name, tensor in weights(plain).items():
        assert tensor.equal(weights(measured)[name]), name
    told = {report.step: report for report in measured.arms[0].histories["train"]}
    assert {step for step, report in told.items() if report.metrics} == {2, 4, 6}
    for report in plain.arms[0].histories["train"]:
        assert (report.loss, report.tokens) == (told[report.step].loss, told[report.step].tokens)
    (final,) = (one.value for one in measured.measurements if one.name == "bits-per-byte" and one.subject == "student")
    assert told[6].metrics[WATCHED] == pytest.approx(final, rel=1e-4)


def test_training_ends_when_the_student_gets_no_better_and_the_best_is_kept(
    short: dict[str, Any], tmp_path: Path
) -> None:
    short["trainer"] |= {
        "learning_rate": 0.5, "schedule": "constant", "warmup": 0,
        "validation": {**EVERY_TWO, "every": 1, "watch": WATCHED, "patience": 2},
    }  # fmt: skip
    short["train"]["steps"] = 40
    results = kdtool.run(short, out=tmp_path / "runs")
    trained = results.arms[0].phases["train"]
    values = {report.step: report.metrics[WATCHED] for report in results.arms[0].histories["train"]}
    best = min(values, key=lambda step: (values[step], step))
    assert trained.steps == max(values) == best + 2 < 40
    assert any(f"was best after step {best:,}" in note for note in trained.notes)
    (final,) = (one.value for one in results.measurements if one.name == "bits-per-byte" and one.subject == "student")
    assert final == pytest.approx(values[best], rel=1e-4)


def test_evaluator_that_is_not_there_is_refused_with_the_recipe(short: dict[str, Any]) -> None:
    short["trainer"] |= {"validation": {"evaluators": ["perplexty"]}}
    with pytest.raises(kdtool.RecipeError, match=r"asks the evaluator 'perplexty'.*\n.*perplexity"):
        kdtool.check(short)
    short["trainer"] |= {"validation": {"watch": "humaneval.pass@1"}}
    with pytest.raises(kdtool.RecipeError, match="watch names a measurement of perplexity"):
        kdtool.check(short)


def test_what_a_phase_leaves_depends_on_the_evaluators_that_it_asks(short: dict[str, Any], tmp_path: Path) -> None:
    short["trainer"] |= {"validation": {"every": 3}}
    reused = []
    for documents in (3, 3, 2):
        short["evaluators"]["perplexity"]["documents"] = documents
        results = kdtool.run(short, out=tmp_path / "runs")
        (phase,) = (one for one in results.stages if one.name.startswith("phases/"))
        reused.append(phase.reused)
    assert reused == [False, True, False]
    assert json.loads((results.folder / "results.json").read_text(encoding="utf-8"))


def test_control_that_ends_elsewhere_is_compared_as_what_it_is(
    short: dict[str, Any], recipe: dict[str, Any], tmp_path: Path
) -> None:
    watched = {**EVERY_TWO, "every": 1, "watch": WATCHED, "patience": 1}
    short["trainer"] |= {"learning_rate": 0.3, "schedule": "constant", "warmup": 0, "validation": watched}
    short["train"]["steps"] = 30
    results = kdtool.run({**short, "control": recipe["control"]}, out=tmp_path / "runs")
    arms = {arm.arm: arm.phases["train"] for arm in results.arms}
    assert arms["student"].steps < 30
    assert "each until it got no better" in results.verdict
    assert "equally many tokens" not in results.verdict


def test_what_cannot_be_watched_is_known_before_the_first_step(short: dict[str, Any], tmp_path: Path) -> None:
    short["evaluators"]["agreement"] = {}
    short["trainer"] |= {"validation": {"evaluators": ["agreement"], "watch": "agreement.top-1-agreement-with-teacher"}}
    with pytest.raises(kdtool.UsageError, match="cannot be measured while the student learns; measured were: none"):
        kdtool.run(short, out=tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("history.jsonl"))


def test_evaluators_that_find_nothing_in_the_split_validation_are_refused_before_the_first_step(
    short: dict[str, Any], tmp_path: Path
) -> None:
    lines = [{"text": f"x = {i}\n" * 60, "split": "train" if i < 8 else "test"} for i in range(12)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    short["corpus"] = {"use": "jsonl", "files": [str(tmp_path / "text.jsonl")]}
    short["evaluators"]["perplexity"]["split"] = "test"
    short["trainer"] |= {"validation": {"every": 5, "evaluators": ["perplexity"]}}
    with pytest.raises(kdtool.UsageError, match=r"has no documents.*the split 'validation' stands for 'test'"):
        kdtool.run(short, out=tmp_path / "runs")
    assert not list((tmp_path / "store").rglob("history.jsonl"))
    assert not list((tmp_path / "runs").rglob("history.jsonl"))
