"""Requirements of a recipe: read early, held at the end, and a miss that keeps everything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._assembly.requirements import checked_against
from kdtool._cli import call
from kdtool._recipe.layers import compose, settings_layer
from kdtool._recipe.yaml import Place, as_node
from kdtool._results.files import read_results


def test_met_requirements_end_a_run_as_any_other(recipe: dict[str, Any]) -> None:
    results = kdtool.run({**recipe, "require": {"nats.nats": "<= 1e3"}})
    (found,) = results.requirements
    assert found.met
    values = {measured.subject: measured.value for measured in results.measurements}
    assert found.value == pytest.approx((values["student-seed0"] + values["student-seed1"]) / 2)
    assert read_results(results.folder).requirements == results.requirements


def test_missed_requirement_keeps_everything_and_says_by_how_much(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.yaml").write_text(json.dumps({**recipe, "require": {"nats.nats": "< 0.5"}}), encoding="utf-8")
    assert call(["run", "toy.yaml"]) == 6
    assert "required: nats.nats is" in (said := capsys.readouterr().err)
    assert "off < 0.5" in said
    assert "report.txt" in said
    results = read_results(tmp_path / "runs" / "toy")
    assert results.report is not None
    assert [one.met for one in results.requirements] == [False]
    assert call(["run", "toy.yaml"]) == 6  # nothing is made again, and it is missed as before


def test_without_a_reporter_results_are_named_and_no_report(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {**recipe, "reporter": None}
    for require, code in (("> 0", 0), ("< 0", 6)):
        text = json.dumps({**plain, "require": {"nats.nats": require}})
        (tmp_path / "toy.yaml").write_text(text, encoding="utf-8")
        assert call(["run", "toy.yaml"]) == code
        said = "".join(capsys.readouterr())
        assert f"results: {tmp_path / 'runs' / 'toy'}\n" in said
        assert "report:" not in said


def test_measurement_that_there_is_not_is_said_with_those_that_there_are(recipe: dict[str, Any]) -> None:
    with pytest.raises(
        kdtool.UsageError, match=r"nats\.bits was not measured; nats measured: nats\. Everything is kept"
    ):
        kdtool.run({**recipe, "require": {"nats.bits": ">= 1"}})


_DECLARED = """
import kdtool
import toy


class Nats(toy.Nats):
    measurements = ("nats", "kl-to-*")


class Solves(toy.Nats):
    class Config(kdtool.Config):
        k: tuple[int, ...] = (1, 10)

    def __init__(self, config):
        super().__init__(config)
        self.measurements = [f"solves.pass@{k}" for k in config.k]
"""


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("nats.nat", "did you mean 'nats.nats'"),
        ("nats.bits-per-byte", "measurements of 'nats': nats.kl-to-*, nats.nats"),
        ("nats.kl-of-teacher", "did you mean 'nats.kl-to-"),
        ("solves.pass@100", "did you mean 'solves.pass@1"),
        ("solves.pas@1", "did you mean 'solves.pass@1"),
    ],
)
def test_a_measurement_that_its_evaluator_does_not_declare_is_refused_before_anything_runs(
    recipe: dict[str, Any], name: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "declared.py").write_text(_DECLARED, encoding="utf-8")
    used = {"nats": {"use": "./declared.py:Nats"}, "solves": {"use": "./declared.py:Solves"}}
    for way in (kdtool.check, kdtool.run):
        with pytest.raises(
            kdtool.RecipeError, match=rf"require\.{re.escape(name)}: is not a measurement of"
        ) as refused:
            way({**recipe, "evaluators": used, "require": {name: "<= 1"}})
        assert hint in str(refused.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["nats.nats", "nats.kl-to-teachers.big", "solves.pass@10", "solves.solves.pass@1"])
def test_a_declared_measurement_can_be_required(recipe: dict[str, Any], name: str, tmp_path: Path) -> None:
    (tmp_path / "declared.py").write_text(_DECLARED, encoding="utf-8")
    used = {"nats": {"use": "./declared.py:Nats"}, "solves": {"use": "./declared.py:Solves"}}
    kdtool.check({**recipe, "evaluators": used, "require": {name: "<= 1"}})


def test_measurement_that_bears_its_evaluators_name_needs_no_prefix() -> None:
    measured = {
        "humaneval": [kdtool.Measurement("humaneval.pass@1", "student", "fraction", 0.72, 1, higher_is_better=True)]
    }
    for key in ("humaneval.pass@1", "humaneval.humaneval.pass@1"):
        (found,) = checked_against({"require": {key: ">= 0.70"}}, measured, ["student"], [])
        assert found.met
    (found,) = checked_against({"require": {"humaneval.pass@10": ">= 0.70"}}, measured, ["student"], [])
    assert found.value is None


@pytest.mark.parametrize(
    ("require", "message"),
    [
        ({"nat.nats": ">= 1"}, "did you mean 'nats'"),
        ({"nats": ">= 1"}, "write EVALUATOR.MEASUREMENT"),
        ({"nats.nats": "about 1"}, "'about 1' is not a condition"),
        ({"nats.nats": 0.7}, "'0.7' is not a condition"),
        ({"nats.nats": "better than contrl"}, "did you mean 'control"),
        ({"nats.nats": ">= 90% of control"}, "compares with 'control', which is not in this recipe"),
        (["nats.nats"], "must be a mapping of measurements to conditions"),
    ],
)
def test_what_is_no_requirement_is_refused_before_anything_runs(
    recipe: dict[str, Any], require: Any, message: str
) -> None:
    with pytest.raises(kdtool.RecipeError, match=message):
        kdtool.check({**recipe, "require": require})


@pytest.mark.parametrize(
    "name", ["humaneval.pass@1", "perplexity.bits-per-byte", "nats.nats", "base.humaneval.pass@10"]
)
def test_a_requirement_is_set_on_the_command_line_by_its_name_in_the_recipe(name: str) -> None:
    below = as_node({"require": {name: ">= 1", "nats.other": "< 1"}}, Place("", 0, 0, Path()))
    for value, read in ((">= 0.7", ">= 0.7"), ("false", False)):
        composed = compose([below, settings_layer({f"require.{name}": value})]).plain()
        assert composed == {"require": {name: read, "nats.other": "< 1"}}


def test_a_requirement_on_the_command_line_is_checked_against_the_student(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["run", "toy.yaml", "--set", "require.nats.nats=< 0.5"]) == 6
    assert "required: nats.nats is" in capsys.readouterr().err
    assert call(["check", "toy.yaml", "--set", "require.nat.pass@1=< 0.5"]) == 2
    assert "require.nat.pass@1" in capsys.readouterr().err
    assert call(["check", "toy.yaml", "--set", "require.=< 0.5"]) == 2


def test_requirement_may_name_an_arm_and_false_switches_one_off(recipe: dict[str, Any]) -> None:
    relative = {"nats.nats": "better than control"}
    results = kdtool.run({**recipe, "require": {"nats.nats": False}})
    assert not results.requirements
    compared = next(c for c in results.comparisons if (c.arm, c.against) == ("student", "control"))
    if compared.verdict == "better":
        assert kdtool.run({**recipe, "require": relative}).requirements[0].met
    else:
        with pytest.raises(kdtool.TargetMissedError, match="95 % interval of the difference"):
            kdtool.run({**recipe, "require": relative})


def test_share_of_the_teacher_is_refused_where_it_means_nothing(recipe: dict[str, Any]) -> None:
    with pytest.raises(kdtool.TargetMissedError, match=r"cannot be a share of teacher: .% of. needs") as raised:
        kdtool.run({**recipe, "require": {"nats.nats": ">= 90% of teacher"}})
    assert [one.met for one in raised.value.results.requirements] == [False]
