"""Requirements of a recipe: read early, held at the end, and a miss that keeps everything."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._recipe.parser import load_recipe
from kdtool._results.comparisons import read_items
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
        *((name, "") for name in ("nats.kl-to-teachers.big", "solves.pass@10", "solves.solves.pass@1")),
    ],
)
def test_a_measurement_that_its_evaluator_does_not_declare_is_refused_before_anything_runs(
    recipe: dict[str, Any], name: str, hint: str
) -> None:
    Path("declared.py").write_text(_DECLARED, encoding="utf-8")
    used = {"nats": {"use": "./declared.py:Nats"}, "solves": {"use": "./declared.py:Solves"}}
    required = {**recipe, "evaluators": used, "require": {name: "<= 1"}}
    if not hint:
        kdtool.check(required)
        return
    for way in (kdtool.check, kdtool.run):
        with pytest.raises(
            kdtool.RecipeError, match=rf"require\.{re.escape(name)}: is not a measurement of"
        ) as refused:
            way(required)
        assert hint in str(refused.value)
    assert not Path("runs").exists()


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


def test_a_requirement_on_the_command_line_is_checked_against_the_student(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["run", "toy.yaml", "--set", "require.nats.nats=< 0.5"]) == 6
    assert "required: nats.nats is" in capsys.readouterr().err
    for value, read in ((">= 0.7", ">= 0.7"), ("false", False)):
        found = load_recipe({**recipe, "require": {"nats.pass@1": "> 1"}}, {"require.nats.pass@1": value})
        assert found.data["require"] == {"nats.pass@1": read}
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
        with pytest.raises(kdtool.TargetMissedError, match=r"\(difference .*, 95 % interval"):
            kdtool.run({**recipe, "require": relative})


def test_share_of_the_teacher_is_refused_where_it_means_nothing(recipe: dict[str, Any]) -> None:
    with pytest.raises(kdtool.TargetMissedError, match=r"cannot be a share of teacher: .% of. needs") as raised:
        kdtool.run({**recipe, "require": {"nats.nats": ">= 90% of teacher"}})
    assert [one.met for one in raised.value.results.requirements] == [False]


SOLVES = '''
import json
import kdtool


class Solves(kdtool.Evaluator):
    """Gives shares of twenty problems."""

    class Config(kdtool.Config):
        student: int = 0
        """Problems that the student solves."""
        control: int = 0
        """Problems that the control solves."""
        times: int = 1
        """Times that each result is returned."""

    config: Config

    def kdtool_evaluate(self, run, subjects):
        run.say("bench: twenty problems")
        for subject in subjects:
            solved = {"student": self.config.student, "control": self.config.control}.get(subject.role, 20)
            items = run.folder / "items.jsonl"
            rows = [{"item": str(one), "sum": float(one < solved), "weight": 1.0} for one in range(20)]
            items.write_text("".join(json.dumps(row) + "\\n" for row in rows))
            for _ in range(self.config.times):
                yield kdtool.Measurement("bench.pass@1", subject.name, "fraction", solved / 20, 20, True, items=items)


class Hears(kdtool.Tracker):
    """Writes down what was measured of the student."""

    def kdtool_measurement(self, run, measurement):
        if measurement.subject == "student":
            with open("heard.txt", "a") as file:
                file.write(measurement.name + "\\n")
'''


@pytest.fixture
def twice(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A recipe with one seed, in which the student is worse than the control when `base` asks, better when `chat` does."""
    file = tmp_path / "solves.py"
    file.write_text(SOLVES, encoding="utf-8")
    evaluators = {
        "base": {"use": f"{file}:Solves", "student": 2, "control": 8},
        "chat": {"use": f"{file}:Solves", "student": 18, "control": 10},
    }
    return {
        **recipe, "seeds": [0], "control": True, "evaluators": {**recipe["evaluators"], **evaluators},
        "trackers": {"hears": {"use": f"{file}:Hears"}},
    }  # fmt: skip


def test_each_is_called_by_its_evaluator_too(twice: dict[str, Any]) -> None:
    results = read_results(kdtool.run(twice).folder)
    assert {"base: bench: twenty problems", "chat: bench: twenty problems"} <= set(results.notes)
    values = {one.name: one.value for one in results.measurements if one.subject == "student"}
    assert list(values) == ["nats", "base.bench.pass@1", "chat.bench.pass@1"]
    assert (values["base.bench.pass@1"], values["chat.bench.pass@1"]) == (0.1, 0.9)
    shown = {one.measurement: one for one in results.comparisons if (one.arm, one.against) == ("student", "control")}
    assert [shown[f"{name}.bench.pass@1"].verdict for name in ("base", "chat")] == ["worse", "better"]
    for one in results.measurements:
        solved = sum(total for total, _ in read_items(results.folder / one.items if one.items else None).values())
        assert one.name == "nats" or solved == pytest.approx(20 * one.value)
    assert not any("bench.pass@1" in note for note in results.notes)
    assert Path("heard.txt").read_text(encoding="utf-8").split() == list(values)


def test_what_is_required_of_one_is_not_held_against_the_other(twice: dict[str, Any]) -> None:
    require = {f"{name}.bench.pass@1": "better than control" for name in ("base", "chat")}
    with pytest.raises(kdtool.TargetMissedError, match=r"base\.bench\.pass@1 is 0\.1, worse than control"):
        kdtool.run({**twice, "require": require})
    found = read_results(Path("runs/toy").absolute()).requirements
    assert [one.met for one in found] == [False, True]


def test_tables_side_by_side_do_not_take_them_for_seeds(
    twice: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    kdtool.run(twice)
    kdtool.run({**twice, "name": "again", "trainer": {**twice["trainer"], "factor": 3.0}})
    values = {(one.arm, one.measurement): one for one in kdtool.compare(["toy", "again"]).values["toy"]}
    assert all(value.seeds == 1 for value in values.values())
    assert values["student", "chat.bench.pass@1"].value == 0.9
    assert call(["compare", "toy", "again"]) == 0
    assert "\nchat.bench.pass@1 ↑ " in capsys.readouterr().out


def test_the_evaluator_whose_name_it_bears_keeps_it(twice: dict[str, Any]) -> None:
    """As in `require`: a measurement that begins with its evaluator's name says whose it is."""
    evaluators = {"bench": twice["evaluators"]["base"], "chat": twice["evaluators"]["chat"]}
    require = {"bench.pass@1": "<= 0.1", "bench.bench.pass@1": "<= 0.1", "chat.bench.pass@1": ">= 0.9"}
    results = kdtool.run({**twice, "evaluators": evaluators, "require": require})
    assert {one.name for one in results.measurements} == {"bench.pass@1", "chat.bench.pass@1"}
    assert {one.value for one in results.measurements if one.name == "bench.pass@1"} == {0.1, 0.4, 1.0}


def test_one_evaluator_that_tells_a_name_twice_is_refused(twice: dict[str, Any]) -> None:
    with pytest.raises(kdtool.PluginError, match=r"returned a measurement 'bench\.pass@1' of 'teacher' twice"):
        kdtool.run(twice, {"evaluators.chat.times": 2})
