"""Runs that only measure, without torch: every seed of a run's student, names, and what a whole recipe gives."""

from __future__ import annotations

import json
from pathlib import Path

import kdtool
import pytest
from kdtool._cli import call
from kdtool._results.files import read_results
from toy_recipe import Recipe
from variants import variant

OPENER = variant("Opener")["use"]


@pytest.fixture
def measuring(recipe: Recipe, tmp_path: Path) -> list[str]:
    """A finished run "toy" with two seeds, and what `kdtool eval` needs to open its students and measure them."""
    (tmp_path / "toy.yaml").write_text(json.dumps({**recipe, "require": {"nats.nats": "< 0"}}), encoding="utf-8")
    kdtool.run({**recipe, "control": False})
    return ["--recipe", "toy.yaml", "--set", f"exporters.json.use={OPENER}"]


def test_students_of_a_run_are_measured_with_every_seed_and_as_they_were_there(
    measuring: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["eval", "toy", "again=runs/toy", *measuring, "--name", "both"]) == 0
    assert "Against again, toy is not judged, with fewer than 12 items, in nats" in capsys.readouterr().out
    found = read_results(Path("runs/both").absolute())
    before = read_results(Path("runs/toy").absolute())
    values = {measured.subject: measured.value for measured in found.measurements}
    assert values.keys() == {"toy-seed0", "toy-seed1", "again-seed0", "again-seed1", "teacher"}
    expected = {measured.subject: measured.value for measured in before.measurements}
    assert [values[f"toy-seed{seed}"] for seed in (0, 1)] == [expected[f"student-seed{seed}"] for seed in (0, 1)]
    assert {(c.arm, c.against, c.seeds) for c in found.comparisons} == {
        ("toy", "again", 2), ("toy", "teacher", 2), ("again", "teacher", 2),
    }  # fmt: skip
    assert not found.requirements  # they are of training
    assert call(["compare", "toy", "both", "--arm", "student", "--arm", "again"]) == 0
    assert "both" in capsys.readouterr().out


def test_a_seed_in_the_name_of_a_run_is_no_seed(recipe: Recipe, measuring: list[str]) -> None:
    for name in ("one-seed0", "two-seed0"):
        kdtool.run({**recipe, "name": name, "seeds": [0], "control": False})
    assert call(["eval", "one-seed0", "two-seed0", *measuring, "--name", "both"]) == 0
    found = read_results(Path("runs/both").absolute())
    assert {one.name: one.arm for one in found.subjects if one.role != "teacher"} == {
        "one-seed0": "one-seed0", "two-seed0": "two-seed0",
    }  # fmt: skip
    assert ("one-seed0", "two-seed0") in {(compared.arm, compared.against) for compared in found.comparisons}


def test_models_of_one_name_are_refused(
    measuring: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models" / "toy").mkdir(parents=True)
    for models, message in (
        ("toy models/toy", "two models are called 'toy'"),
        ("teacher=toy", "are called 'teacher'; give the model another name, such as my-teacher=FOLDER"),
    ):
        assert call(["eval", *models.split(), *measuring]) == 2, models
        assert message in capsys.readouterr().err


def test_second_call_measures_nothing_again_and_other_evaluators_have_results_of_their_own(
    measuring: list[str],
) -> None:
    assert call(["eval", "toy", *measuring]) == 0
    assert call(["eval", "toy", *measuring]) == 0
    again = read_results(Path("runs/eval-toy").absolute())
    assert again.stages
    assert all(stage.reused for stage in again.stages)
    assert call(["eval", "toy", *measuring, "--with", "nats"]) == 0
    assert call(["eval", "toy", *measuring, "--with", "nats", "--name", "own"]) == 0
    assert {path.parent.name for path in Path("runs").glob("eval*/results.json")} == {"eval-toy", "eval-toy-nats"}


def test_a_run_alone_is_measured_with_its_own_text_teacher_and_evaluators(measuring: list[str], tmp_path: Path) -> None:
    opener = measuring[2:]
    (tmp_path / "toy.yaml").unlink()
    assert call(["eval", "toy", *opener, "--with", "nats"]) == 0
    assert call(["eval", "toy", *opener]) == 0
    before = {found.subject: found.value for found in read_results(Path("runs/toy").absolute()).measurements}
    for name in ("eval-toy-nats", "eval-toy"):
        found = {each.subject: each.value for each in read_results(Path("runs", name).absolute()).measurements}
        assert found["teacher"] == before["teacher"]
        assert found["toy-seed0"] == before["student-seed0"]


FILTER = """
import kdtool
from toy import Nats

class Benchmark(Nats):
    def kdtool_problems(self, run):
        return (kdtool.Example("1", kdtool.Text("a leaked problem"), "test"),)

class Apart(kdtool.Filter):
    def kdtool_identity(self, run):
        self.problems = [problem.body.text for found in run.hook.kdtool_problems(run).values() for problem in found]
        return {"problems": " ".join(self.problems)}

    def kdtool_filter(self, run, examples):
        return ["leaked" if e.body.text in self.problems else None for e in examples]
"""


def test_the_text_is_filtered_by_all_evaluators_of_the_recipe_and_made_once(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "filter.py").write_text(FILTER, encoding="utf-8")
    recipe |= {"control": False, "filters": {"apart": {"use": "./filter.py:Apart"}}}
    recipe["evaluators"]["leaked"] = {"use": "./filter.py:Benchmark"}
    (tmp_path / "toy.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    kdtool.run(recipe)
    opener = {"exporters.json.use": OPENER}
    results = kdtool.evaluate(["toy"], ["nats"], opener, recipe="toy.yaml")
    assert {stage.name: stage.reused for stage in results.stages}["text"]
    assert "leaked" not in {stage.name.partition("-")[0] for stage in results.stages}
