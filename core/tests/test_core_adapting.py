"""Phases that train a teacher first: what depends on them, what they depend on, and what a recipe may ask of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._store.artefacts import clean
from kdtool._store.shared import GRAPH, OWN_KINDS, SHARED_KINDS
from toy_recipe import Recipe, use


def phase(**more: Any) -> Recipe:
    return {"trains": "teacher", "losses": {"count": use("Count")}, "steps": 3, **more}


@pytest.fixture
def adapting(recipe: Recipe) -> Recipe:
    """The toy recipe with a teacher that is trained first."""
    train = {"adapt": phase(), "distil": recipe["train"]}
    return {**recipe, "seeds": [0], "teacher": use("Scholar"), "train": train}


def made(results: kdtool.Results) -> set[str]:
    return {stage.name for stage in results.stages if not stage.reused}


def nats(results: kdtool.Results) -> dict[str, float]:
    return {found.subject: found.value for found in results.measurements}


def counts(results: kdtool.Results, stage: str, file: str) -> dict[str, float]:
    (folder,) = (each.path for each in results.stages if each.name == stage)
    found: dict[str, float] = json.loads((folder / file).read_text(encoding="utf-8"))
    return found


def nodes(results: kdtool.Results) -> dict[str, Any]:
    return dict(json.loads((results.folder / GRAPH).read_text(encoding="utf-8"))["nodes"])


def test_teacher_teaches_what_it_learnt_and_is_measured_before_and_after(adapting: Recipe) -> None:
    results = kdtool.run(adapting)
    learnt = counts(results, "teachers/teacher-adapt", "model/counts.json")
    assert counts(results, "signals/teacher", "signal.json") == learnt
    assert nats(results)["teacher"] != nats(results)["teacher.unadapted"]
    places = {(node["in"], node["path"].partition("/")[0]) for node in nodes(results).values()}
    shared = {("store", kind) for kind in (*SHARED_KINDS, "scores")}  # scores of teachers
    assert places == {*shared, *(("run", kind) for kind in OWN_KINDS)}, "where cleaning looks"
    plain = kdtool.run({**adapting, "name": "plain", "train": adapting["train"]["distil"]})
    assert nats(plain)["teacher"] == nats(results)["teacher.unadapted"]
    assert "teacher.unadapted" not in nats(plain)


def test_results_hold_the_phase_once_for_all_seeds_and_controls_leave_it_out(adapting: Recipe) -> None:
    results = kdtool.run(adapting, {"seeds": [3, 5]})
    (teacher,) = (arm for arm in results.arms if arm.arm == "teacher")
    assert (teacher.seed, list(teacher.phases), teacher.phases["adapt"].steps) == (0, ["adapt"], 3)
    assert len(teacher.histories["adapt"]) == 3
    assert results.arms[0].arm == "student"
    assert results.arms[0].artifacts
    assert [list(arm.phases) for arm in results.arms if arm.arm == "control"] == [["distil"]] * 2
    inputs = nodes(results)["phases/control-time-seed3-distil"]["inputs"]
    assert inputs["the time of teachers/teacher-adapt"] == "teachers/teacher-adapt", "charged to equal time"


DEPENDING = ("teachers", "signals", "phases", "exports", "scores")
CHANGES = {
    "train.adapt.steps": (4, DEPENDING),
    "train.distil.losses.count.weight": (0.2, ("phases", "exports", "scores")),
    "seeds": ([0, 1], ("phases/student-seed1", "phases/control-seed1", "phases/control-time-seed1", "scores")),
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_depends_on_the_teacher_is_redone_and_what_it_depends_on_is_not(adapting: Recipe, key: str) -> None:
    value, expected = CHANGES[key]
    first = kdtool.run(adapting)
    plan = kdtool.plan(adapting, {key: value})
    second = kdtool.run(adapting, {key: value})
    assert {stage.name for stage in plan if stage.action == "run"} == made(second)
    assert all(name.startswith(expected) for name in made(second))
    assert {name.partition("/")[0] for name in made(second)} == {name.partition("/")[0] for name in expected}
    assert "scores/nats-teacher.unadapted" in made(first) - made(second)


def test_several_phases_follow_each_other_and_each_has_text_of_its_own(adapting: Recipe) -> None:
    second = phase(corpus=use("Corpus", documents=6))
    adapting["train"] = {"first": phase(), "second": second, "distil": adapting["train"]["distil"]}
    results = kdtool.run(adapting)
    learnt = [counts(results, f"teachers/teacher-{name}", "model/counts.json") for name in ("first", "second")]
    assert sum(learnt[1].values()) > sum(learnt[0].values())
    assert {"text/second", "rows/second"} <= made(results)
    (teacher,) = (arm for arm in results.arms if arm.arm == "teacher")
    assert list(teacher.phases) == ["first", "second"]
    again = made(kdtool.run(adapting, {"train.second.steps": 5}))
    assert "teachers/teacher-second" in again
    assert "teachers/teacher-first" not in again


def test_teachers_are_kept_apart(adapting: Recipe) -> None:
    losses = {"imitate": use("Imitate", teacher="small"), "other": use("Imitate", teacher="big"), "count": use("Count")}
    adapting["teachers"] = {"big": use("Scholar"), "small": adapting.pop("teacher")}
    adapting["train"] = {"adapt": phase(trains="big"), "distil": {**adapting["train"]["distil"], "losses": losses}}
    found = nats(kdtool.run(adapting))
    assert found["teachers.small"] == found["teachers.big.unadapted"] != found["teachers.big"]
    again = made(kdtool.run(adapting, {"train.adapt.steps": 5}))
    assert "signals/teachers.big" in again
    assert "signals/teachers.small" not in again


def test_text_that_the_teacher_says_is_said_with_what_it_learnt(adapting: Recipe) -> None:
    recipe = {**adapting, "corpus": use("Sayings")}
    said = {stage.name for stage in kdtool.run(recipe).stages if stage.name.startswith("text")}
    assert said == {"text", "text/adapt"}
    again = made(kdtool.run(recipe, {"train.adapt.steps": 5}))
    assert "text" in again
    assert "text/adapt" not in again


def test_without_a_store_of_signals_the_phase_itself_depends_on_it(adapting: Recipe) -> None:
    recipe = {**adapting, "signals": False}
    before = kdtool.run(recipe)
    after = kdtool.run(recipe, {"train.adapt.steps": 5})
    assert nats(before)["student"] != nats(after)["student"]
    why = {stage.name: stage.why for stage in kdtool.plan(recipe, {"train.adapt.steps": 6})}
    assert "input changed: training of teacher, phase adapt" in why["phases/student-seed0-distil"]


def test_killed_meanwhile_it_goes_on_and_the_plan_says_so(adapting: Recipe, tmp_path: Path) -> None:
    file = Path("recipe.json")
    file.write_text(json.dumps(adapting), encoding="utf-8")
    code, environment = f"import kdtool; kdtool.run({str(file)!r})", {**os.environ, "TOY_DIE_AT": "teacher:2"}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 9
    planned = {stage.name: stage.action for stage in kdtool.plan(file)}
    assert planned["teachers/teacher-adapt"] == "continue"
    (partial,) = (tmp_path / "store").glob("teachers/*.partial")
    assert partial not in {found.path for found in clean(tmp_path / "store").found}, "the run goes on in it"
    results = kdtool.run(file)
    (teacher,) = (arm for arm in results.arms if arm.arm == "teacher")
    assert [report.step for report in teacher.histories["adapt"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.adapt.trains": "techer"}, r"train.adapt.trains: 'techer' is not a teacher .*did you mean 'teacher'"),
        ({"train.adapt.trains": 3}, r"train.adapt.trains: must be the name of a teacher"),
        ({"teacher": use("Teacher")}, r"cannot be trained: it does not implement kdtool_trainable and kdtool_load_w"),
        ({"train.adapt.losses.imitate": use("Imitate")}, r"train.adapt.losses.imitate: needs a teacher, but this"),
        ({"train.distil": False}, r"train: trains no student"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(adapting: Recipe, settings: Recipe, message: str) -> None:
    with pytest.raises(kdtool.RecipeError, match=message.replace(" .*", r"(.|\n)*")):
        kdtool.run(adapting, settings)
    assert not Path("runs").exists()


def test_a_recipe_that_extends_another_adds_the_phase_behind_and_it_comes_first(recipe: Recipe) -> None:
    Path("base.json").write_text(json.dumps({**recipe, "seeds": [0], "teacher": use("Scholar")}), encoding="utf-8")
    results = kdtool.run({"extends": "base.json", "train": {"adapt": phase()}})
    names = [stage.name for stage in results.stages]
    assert names.index("teachers/teacher-adapt") < names.index("students")
    assert list(results.data["phases"]) == ["adapt", "train"]
