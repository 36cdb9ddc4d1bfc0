"""Controls on samples of the untrained student, and a reference: arms, steps, verdict, requirements, mistakes."""

from __future__ import annotations

from typing import Any

import kdtool
import pytest
from toy_recipe import Recipe, use

SELF = {"self": use("OwnWords")}


def compared(recipe: Recipe, **more: Any) -> Recipe:
    """The toy recipe with a control on own samples, and a reference."""
    return {**recipe, "control": SELF, "reference": recipe["teacher"], **more}


def test_controls_on_own_samples_and_the_reference_are_measured_and_compared(recipe: Recipe) -> None:
    results = kdtool.run(compared(recipe, control={**SELF, "match": ["tokens", "time"]}))
    arms = list(dict.fromkeys(arm.arm for arm in results.arms))
    assert arms == ["student", "control", "control-time", "control-self", "control-self-time"]
    roles = {subject.arm or subject.name: subject.role for subject in results.subjects}
    assert (roles["reference"], roles["control-self"]) == ("reference", "control")
    against = {pair.against for pair in results.comparisons if pair.arm == "student"}
    assert against == {*arms[1:], "reference", "teacher"}
    for words in ("tuned on its own samples, on about as many tokens", "Against the reference, an existing model"):
        assert words in results.verdict
    assert "control-self" in results.outcome
    assert "reference" in results.outcome
    with kdtool.open_models(results.folder) as models:
        assert list(models.subjects)[-2:] == ["reference", "teacher"]
        models.open("reference").close()


def test_steps_follow_from_labels_and_runs_share_samples_and_control(recipe: Recipe) -> None:
    results = kdtool.run(compared(recipe))
    (sampling,) = (stage for stage in results.stages if stage.name.startswith("rows/self"))
    assert (sampling.path / "sampled.json").read_text(encoding="utf-8") == "{}", "an empty student"
    steps = {arm.arm: arm.phases["train"].steps for arm in results.arms}
    assert steps == {"student": 4, "control": 4, "control-self": 9}, "15 labels a row of 16, and 7 of 8"
    again = kdtool.run(compared(recipe, name="again", train={**recipe["train"], "steps": 4}))
    assert {stage.name for stage in again.stages if stage.reused} >= {sampling.name, "phases/control-self-seed0-train"}
    longer = kdtool.plan(compared(recipe, name="longer"), {"train.steps": 5})
    assert {stage.name: stage.action for stage in longer}["phases/control-self-seed1-train"] == "run"


def test_requirements_name_the_new_arms(recipe: Recipe) -> None:
    for arm in ("control-self", "reference"):
        found = compared(recipe, require={"nats.nats": f"better than {arm}"})
        try:
            (requirement,) = kdtool.run(found).requirements
        except kdtool.TargetMissedError as missed:
            (requirement,) = missed.results.requirements
        assert f"than {arm} (difference " in requirement.text


def test_all_mistakes_are_reported_with_their_keys(recipe: Recipe) -> None:
    for arm in ("control-self", "reference", "control-self-time"):
        with pytest.raises(kdtool.RecipeError, match=f"compares with '{arm}', which is not in this recipe"):
            kdtool.check({**recipe, "require": {"nats.nats": f"better than {arm}"}})
    with pytest.raises(kdtool.RecipeError) as found:
        kdtool.check(compared(recipe, control={"self": 3, "selves": True}, reference=["a"]))
    problems = {problem.key: problem.message for problem in found.value.problems}
    assert problems.keys() == {"control.self", "control.selves", "reference"}
    assert "must be a mapping of settings or the name of a plugin, not 3" in problems["control.self"]
    with pytest.raises(kdtool.RecipeError, match="reference: cannot be measured"):
        kdtool.check(compared(recipe, reference=use("Former")))
