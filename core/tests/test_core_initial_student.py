"""A teacher that is the student before a phase: the same arm and seed, beside the student, and never measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest

TOY = Path(__file__).with_name("toy.py")


def use(name: str, **options: Any) -> dict[str, Any]:
    return {"use": f"{TOY}:{name}", **options}


@pytest.fixture
def following(recipe: dict[str, Any]) -> dict[str, Any]:
    """The toy recipe with phases that count text, and one step that adds what the student had counted before a phase."""
    losses = {"count": use("Count")}
    own = {
        "teacher": use("Former"),
        "signals": False,
        "losses": {"imitate": use("Imitate")},
        "trainer": {"factor": 1e-9},
    }
    train = {
        "first": {"losses": losses, "steps": 2},
        "second": {"losses": losses, "steps": 3},
        "third": {**own, "steps": 1},
    }
    kept = {key: value for key, value in recipe.items() if key not in {"teacher", "signals"}}
    return {**kept, "train": train, "control": False}


def counts(results: kdtool.Results, seed: int, phase: str) -> dict[str, float]:
    """Return what the student had counted after a phase."""
    (path,) = (stage.path for stage in results.stages if stage.name == f"phases/student-seed{seed}-{phase}")
    found: dict[str, float] = json.loads((path / "model" / "counts.json").read_text(encoding="utf-8"))
    return found


def added(results: kdtool.Results, seed: int) -> dict[str, float]:
    """Return what the last phase added to the student's counts."""
    before, after = counts(results, seed, "second"), counts(results, seed, "third")
    gained = {byte: round(count - before.get(byte, 0), 3) for byte, count in after.items()}
    return {byte: count for byte, count in gained.items() if count}


@pytest.mark.parametrize("before", ["", "third", "second", "first"])
def test_it_is_the_student_of_that_phase_and_seed(following: dict[str, Any], before: str) -> None:
    results = kdtool.run(following, {"train.third.teacher.before": before} if before else {})
    for seed in (0, 1):
        earlier = {"": "second", "third": "second", "second": "first", "first": None}[before]
        assert added(results, seed) == (counts(results, seed, earlier) if earlier else {})
    assert counts(results, 0, "first") != counts(results, 1, "first")


def test_it_is_not_measured_and_the_control_has_none(following: dict[str, Any]) -> None:
    results = kdtool.run({**following, "control": {"match": "tokens", "losses": {"count": use("Count")}}})
    assert {subject.role for subject in results.subjects} == {"student", "control", "artifact"}


def test_a_change_of_an_earlier_phase_is_seen_and_another_run_reuses_everything(following: dict[str, Any]) -> None:
    kdtool.run(following, {"train.third.teacher.before": "second"})
    assert all(stage.reused for stage in kdtool.run(following, {"train.third.teacher.before": "second"}).stages)
    settings = {"train.third.teacher.before": "first"}
    made = {stage.name for stage in kdtool.run(following, settings).stages if not stage.reused}
    assert "phases/student-seed0-third" in made
    assert "phases/student-seed0-second" not in made


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.third.signals": use("Cache")}, r"is recorded before training, but the teacher 'teacher' is the student"),
        ({"train.third.teacher.before": "fourth"}, r"before the phase 'fourth', .*up to then: first, second, third"),
        ({"train.second.teacher": use("Former", before="third"), "train.second.losses": {"imitate": use("Imitate")}},
         r"before the phase 'third', but the phase 'second' .*up to then: first, second"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_runs(
    following: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(kdtool.RecipeError, match=message.replace(" .*", r"(.|\n)*")):
        kdtool.check(following, settings)
