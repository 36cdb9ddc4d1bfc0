"""Runs side by side: found by name or folder, paired where they were measured alike, and named where not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import kdtool
import pytest
from kdtool._cli import call
from kdtool._results.comparisons import arm_values, interval
from kdtool._store.files import write_sealed
from kdtool._text.terminal import figure
from toy_recipe import Recipe


@pytest.fixture
def recipe(recipe: Recipe) -> Recipe:
    return {**recipe, "control": False, "exporters": {}}


@pytest.fixture
def two_runs(recipe: Recipe) -> None:
    kdtool.run({**recipe, "name": "one"})
    kdtool.run({**recipe, "name": "two", "trainer": {**recipe["trainer"], "factor": 3.0}})


def test_students_of_two_runs_are_compared_over_seeds_and_items(two_runs: None) -> None:
    found = kdtool.compare(["one", Path("runs/two")])
    assert {(run, value.arm, value.seeds) for run, values in found.values.items() for value in values} == {
        ("one", "teacher", 1), ("one", "student", 2), ("two", "teacher", 1), ("two", "student", 2),
    }  # fmt: skip
    (compared,) = found.comparisons
    assert (compared.arm, compared.against, compared.seeds, compared.items) == ("one", "two", 2, 4)
    assert compared.low <= compared.difference <= compared.high  # toys of all seeds are alike
    assert found.verdict.startswith("Against two, one is ")
    values = {(run, value.arm): value.value for run, each in found.values.items() for value in each}
    assert compared.difference == pytest.approx(values["one", "student"] - values["two", "student"])


def test_bounds_of_one_seed_are_not_shown_as_those_of_all(two_runs: None) -> None:
    found = kdtool.load("one")
    timed = [
        kdtool.Measurement("speed", subject.name, "tokens/s", value, 5, True, low=value - 1, high=value + 1)
        for subject, value in zip(found.subjects, (70.0, 10.0, 20.0), strict=True)
    ]
    assert {(each.arm, each.value, each.low, each.high) for each in arm_values(timed, found.subjects)} == {
        ("teacher", 70.0, 69.0, 71.0), ("student", 15.0, None, None),
    }  # fmt: skip


def test_a_value_has_the_same_interval_wherever_it_is_shown(two_runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = kdtool.load("one")
    own = [measured for measured in found.measurements if measured.subject.startswith("student")]
    (student,) = (value for value in found.values if value.arm == "student")
    assert (student.value, student.seeds) == (sum(measured.value for measured in own) / 2, 2)
    assert (student.low, student.high) == interval(own)
    assert student in kdtool.compare(["one", "two"]).values["one"]
    assert ["student", str(student)] in found.table()
    assert str(student) in found._repr_html_()
    capsys.readouterr()
    for arguments in (["compare", "one", "two"], ["show", "one", "--all"]):
        assert call(arguments) == 0
        shown = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
        (row,) = (cells for cells in shown if cells[0] == "nats ↓, nats/byte")
        assert figure(student.value, student.unit, student.low, student.high) in row


def test_command_prints_tables_and_json(two_runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call(["compare", "one", "two", "--arm", "student", "--arm", "teacher"]) == 0
    shown = capsys.readouterr().out
    assert "  one/student, 2 seeds  " in shown
    assert re.search("\none/teacher against two/teacher +difference .*\nnats  ", shown)
    assert call(["compare", "one", "two", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["comparisons"]) == 1


def test_runs_measured_in_other_ways_are_not_judged(two_runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("runs/two/results.json")
    plain = json.loads(path.read_text(encoding="utf-8"))
    for measurement in plain["measurements"]:
        measurement["settings"] = {"split": "validation"}
    write_sealed(path, {key: value for key, value in plain.items() if key != "sha256"})
    found = kdtool.compare(["one", "two"])
    assert not found.comparisons
    assert found.notes == ("nats: one and two are not compared, they were measured in different ways: split",)
    assert found.verdict.startswith("Nothing to compare")
    capsys.readouterr()
    assert call(["compare", "one", "two"]) == 0
    verdict, table, notes = capsys.readouterr().out.strip().split("\n\n")
    assert (verdict, notes) == ("○ nothing was compared", found.notes[0])
    _, *rows = (re.split("  +", line) for line in table.splitlines())
    assert [row[0].partition(" ↓")[0] for row in rows] == ["nats (split not set)", "nats (split validation)"]
    assert [[cell == "–" for cell in row[2:]] for row in rows] == [[False, True], [True, False]]


def test_seeds_that_only_one_run_has_are_named(recipe: Recipe) -> None:
    kdtool.run({**recipe, "name": "one", "seeds": [0]})
    kdtool.run({**recipe, "name": "two"})
    found = kdtool.compare(["one", "two"])
    assert found.notes == ("nats: one and two are compared by seed 0; the other seeds (1) are left out",)
    assert kdtool.compare(["one", "two"], arms=["teacher"]).notes == ()


def test_a_run_that_was_not_copied_whole_is_refused(two_runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("runs/two", "copied", ignore=shutil.ignore_patterns("scores"))
    assert call(["compare", "one", "copied"]) == 2
    error = capsys.readouterr().err
    assert f"{Path('copied').absolute()} lacks scores/" in error
    assert "copy the whole folder of the run" in error


def test_what_cannot_be_compared_is_refused(two_runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    Path("models").mkdir()
    for arguments, message in (
        ("one", "at least two runs"),
        ("one one", "at least two runs"),
        ("one models", "kdtool eval one models --with NAME"),
        ("one twoo", "did you mean 'two'"),
        ("one two --arm studen", "did you mean 'student'"),
    ):
        assert call(["compare", *arguments.split()]) == 2, arguments
        assert message in capsys.readouterr().err
