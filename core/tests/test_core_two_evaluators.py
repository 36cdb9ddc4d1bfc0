"""Two evaluators that measure under one name are called apart, in results, comparisons, tables and `require`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._results.comparisons import read_items
from kdtool._results.files import read_results

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
