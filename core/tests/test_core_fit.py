"""Teachers that learn from the recipe's text: once, before they are asked, as a stage that is stored and reused."""

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
def fitting(recipe: dict[str, Any]) -> dict[str, Any]:
    """The toy recipe with a teacher that learns from the text."""
    return {**recipe, "seeds": [0], "teacher": use("Reader")}


def stage(results: kdtool.Results, name: str) -> kdtool.StageRecord:
    return next(found for found in results.stages if found.name == name)


def list_made(results: kdtool.Results) -> set[str]:
    return {found.name for found in results.stages if not found.reused}


def test_it_is_asked_with_what_it_learnt_from_the_training_text(fitting: dict[str, Any]) -> None:
    results = kdtool.run(fitting)
    learnt = json.loads((stage(results, "teachers/teacher").path / "counts.json").read_text("utf-8"))
    text = stage(results, "text").path / "train.jsonl"
    words = "".join(json.loads(line)["text"] for line in text.read_text("utf-8").splitlines())
    assert learnt == {letter: words.count(letter) for letter in set(words)}
    assert json.loads((stage(results, "signals/teacher").path / "signal.json").read_text("utf-8")) == learnt
    measured = {found.subject for found in results.measurements}
    assert "teacher" in measured
    assert "teacher.unadapted" not in measured


@pytest.mark.parametrize("without", [("signals",), ("evaluators",), ("signals", "evaluators", "exporters", "control")])
def test_no_other_component_need_ask_it_first(fitting: dict[str, Any], without: tuple[str, ...]) -> None:
    results = kdtool.run({key: value for key, value in fitting.items() if key not in without})
    assert stage(results, "teachers/teacher")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"name": "other"}, False),
        ({"train.steps": 5}, False),
        ({"corpus.documents": 9}, True),
    ],
)
def test_it_is_fitted_again_only_if_its_text_changes(
    fitting: dict[str, Any], change: dict[str, Any], again: bool
) -> None:
    kdtool.run(fitting)
    plan = {found.name: found.action for found in kdtool.plan(fitting, change)}
    results = kdtool.run(fitting, change)
    assert ("teachers/teacher" in list_made(results)) == again == (plan["teachers/teacher"] == "run")
    assert ("signals/teacher" in list_made(results)) == again


def test_a_killed_fit_is_begun_again(fitting: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTOOL_TOY_FIT", "fails")
    with pytest.raises(kdtool.KdtoolError, match="teacher 'teacher'"):
        kdtool.run(fitting)
    monkeypatch.delenv("KDTOOL_TOY_FIT")
    assert {"text", "teachers/teacher"} & list_made(kdtool.run(fitting)) == {"teachers/teacher"}


def test_a_teacher_is_fitted_for_measuring_alone(fitting: dict[str, Any]) -> None:
    Path("recipe.yaml").write_text(json.dumps(fitting), encoding="utf-8")
    results = kdtool.evaluate([], ["nats"], recipe="recipe.yaml")
    assert {found.subject for found in results.measurements} == {"teacher"}
    assert "teachers/teacher" in list_made(results)


def test_text_written_by_a_trained_teacher_is_learnt_after_it_is_written(fitting: dict[str, Any]) -> None:
    losses = {"count": use("Count", weight=0.5), "imitate": use("Imitate", weight=0.5, teacher="reader")}
    adapt = {"trains": "teacher", "losses": {"count": use("Count")}, "steps": 3, "corpus": use("Corpus")}
    recipe = {
        **{key: value for key, value in fitting.items() if key != "teacher"},
        "corpus": use("Sayings"),
        "teachers": {"teacher": use("Scholar"), "reader": use("Reader")},
        "train": {"adapt": adapt, "distil": {"losses": losses, "steps": 4}},
    }
    names = [found.name for found in kdtool.run(recipe).stages]
    assert names.index("teachers/teacher-adapt") < names.index("text") < names.index("teachers/teachers.reader")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": use("Sayings")}, "learns from the recipe's text, so it cannot write that text"),
        (
            {"train": {"adapt": {"trains": "teacher", "losses": {"count": use("Count")}, "steps": 1}}},
            "learns only from the recipe's text",
        ),
        ({"teacher": {"use": "./half.py:Half"}}, "implements kdtool_fit without kdtool_load_weights"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(
    fitting: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    Path("half.py").write_text(HALF, encoding="utf-8")
    if "train" in change:
        change = {"train": {**change["train"], "distil": fitting["train"]}}
    with pytest.raises(kdtool.RecipeError, match=message):
        kdtool.check({**fitting, **change})


HALF = '''
import kdtool


class Half(kdtool.Teacher):
    """Learns, and forgets."""

    offers = frozenset({"text"})

    def kdtool_fit(self, run):
        pass

    def kdtool_answer(self, requests):
        yield from ()
'''
