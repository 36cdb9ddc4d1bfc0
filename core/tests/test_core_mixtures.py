"""Losses that learn from a mixture of teachers: what recipes say, what is refused, and what a run knows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._assembly.signals import shares_in_words
from kdtool._cli import call
from kdtool._recipe.parser import load_recipe
from toy_recipe import use
from variants import variant


@pytest.fixture
def mixed(recipe: dict[str, Any]) -> dict[str, Any]:
    """The toy recipe with two teachers, whom one loss learns from together."""
    teacher = recipe.pop("teacher")
    recipe |= {"teachers": {"big": dict(teacher), "small": dict(teacher)}, "signals": False, "seeds": [0]}
    recipe["train"]["losses"]["imitate"] = variant("Likely", teacher={"big": 3, "small": 1})
    return recipe


def asked(recipe: dict[str, Any], teacher: Any) -> Any:
    recipe["train"]["losses"]["imitate"]["teacher"] = teacher
    losses = {spec.name: spec for spec in load_recipe(recipe).phases[0].losses}
    return losses["imitate"].teacher


def test_shares_sum_to_1_whatever_they_are_written_as(mixed: dict[str, Any]) -> None:
    assert asked(mixed, {"big": 70, "small": 30}) == {"big": 0.7, "small": 0.3}
    assert asked(mixed, {"big": 0.5, "small": 0.2, "other": False}) == pytest.approx({"big": 5 / 7, "small": 2 / 7})
    assert asked(mixed, {"big": 5}) == {"big": 1.0}
    assert shares_in_words({"big": 0.7, "small": 0.3}) == "big 70 %, small 30 %"
    assert shares_in_words({"big": 2 / 3, "small": 1 / 3}) == "big 66.7 %, small 33.3 %"


@pytest.mark.parametrize(
    "wrong", [{}, {"big": 0}, {"big": -1.0, "small": 2}, {"big": True}, {"big": "1"}, {"big": float("nan")}, ["big"], 3,
              {"big": False}, {"big": float("inf"), "small": 1}, {"big": 10**400}]
)  # fmt: skip
def test_shares_that_are_none_are_refused(mixed: dict[str, Any], wrong: Any) -> None:
    with pytest.raises(
        kdtool.RecipeError, match=r"imitate\.teacher: must be a name, or names with shares above 0, such as"
    ):
        asked(mixed, wrong)


def test_layers_and_settings_change_single_shares(mixed: dict[str, Any]) -> None:
    key = "train.losses.imitate.teacher"
    assert load_recipe(mixed, {f"{key}.big": "1"}).phases[0].losses[1].teacher == {"big": 0.5, "small": 0.5}
    assert load_recipe(mixed, {key: "small"}).phases[0].losses[1].teacher == {"small": 1.0}


def test_a_run_asks_all_teachers_and_says_so(mixed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    results = kdtool.run(mixed)
    note = "train.losses.imitate learns from a mixture: teachers.big 75 %, teachers.small 25 %"
    assert note in results.notes
    found = kdtool.check(mixed)
    assert found["notes"] == [note]
    transfers = {licensed["component"]: licensed["transfers"] for licensed in found["licences"]}
    assert transfers == {"teachers.big": ["signals"], "teachers.small": ["signals"]}
    Path("r.json").write_text(json.dumps(mixed), encoding="utf-8")
    assert call(["check", "r.json"]) == 0
    assert note in capsys.readouterr().out
    mixed["teachers"]["small"] = variant("Allowed")
    with pytest.raises(kdtool.RecipeError, match=r"teachers\.small: the Named 3 binds the student"):
        kdtool.run(mixed)


def test_other_shares_and_other_teachers_train_anew(mixed: dict[str, Any]) -> None:
    mixed["signals"] = use("Cache")
    kdtool.run(mixed)
    trained = "phases/student-seed0-train"

    def why(settings: dict[str, Any]) -> dict[str, tuple[str, ...]]:
        plan = kdtool.plan(mixed, settings)
        return {stage.name: stage.why for stage in plan if stage.action != "reuse"}

    key = "train.losses.imitate.teacher"
    assert why({}) == {}
    assert why({f"{key}.big": 6, f"{key}.small": 2}) == {}, "the same shares"
    changed = why({f"{key}.big": 1})
    assert changed[trained] == (
        "imitate.teachers.big 0.75 → 0.5", "imitate.teachers.small 0.25 → 0.5",
    )  # fmt: skip
    assert not [name for name in changed if name.startswith(("signals", "rows", "text"))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses.imitate.teacher.huge": 1}, r"imitate: names the teacher 'huge', which is not in this recipe"),
        ({"losses.imitate": variant("Whole")}, r"imitate\.teacher: is a mixture, but only probabilities"),
        ({"losses.imitate": use("Imitate")}, r"imitate\.teacher: is a mixture, but only probabilities"),
        (
            {"teachers.small": variant("Terse")},
            r"imitate\.teacher: is a mixture, but big gives logits, small gives top-k: all must give logits, or all",
        ),
        (
            {"teachers.small": variant("Terse"), "teachers.big": variant("Terse")},
            r"(?s)big gives top-k, small gives top-k: .*outside its top k is not known",
        ),
        (
            {"teachers.small": variant("Foreign")},
            r"imitate: compares token by token, but the student has 257 tokens and teachers\.small 257",
        ),
        (
            {"teachers.small": variant("Ending")},
            r"mixes teachers that have different numbers of tokens in common with the student: teachers\.big 257, "
            r"teachers\.small 250",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_anything_is_made(
    mixed: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    settings = {f"train.{key}" if key.startswith("losses") else key: value for key, value in changes.items()}
    for way in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError, match=message):
            way(mixed, settings)
    assert not list(Path("store").glob("text*/*"))


def test_one_of_them_may_have_further_tokens(mixed: dict[str, Any]) -> None:
    relations = kdtool.check(mixed, {"teachers.small": variant("Going")})["vocabularies"]
    assert {name: found["relation"] for name, found in relations.items()} == {
        "teachers.big": "same", "teachers.small": "prefix",
    }  # fmt: skip
