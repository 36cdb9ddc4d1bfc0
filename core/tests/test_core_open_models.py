"""Models opened for use, and their answers while they are generated. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._results.files import write_results
from toy_recipe import use
from variants import variant


@pytest.fixture
def finished(recipe: dict[str, Any]) -> kdtool.Results:
    """A finished run "toy" whose exporter opens students."""
    return kdtool.run({**recipe, "exporters": {"json": variant("Opener")}, "seeds": [0]})


def test_a_run_gives_its_student_first_and_its_teacher_last(finished: kdtool.Results) -> None:
    with kdtool.open_models("toy") as models:
        assert models.results is not None
        assert models.results.name == "toy"
        roles = [subject.role for subject in models.subjects.values()]
        assert (roles[0], roles[-1]) == ("student", "teacher")
        assert "control" in roles
        exported = [subject.path for subject in models.subjects.values() if subject.role == "artifact"]
        assert [path.parent.name for path in exported if path] == ["exports"], "its path without a fingerprint"
        for name in models.subjects:
            with models.open(name) as opened:
                assert next(iter(opened.score(["ab"]))).tokens
        with pytest.raises(kdtool.UsageError, match=r"no model 'studnt' here.*'student'"):
            models.open("studnt")


def test_a_student_opens_without_what_only_the_teacher_needs(finished: kdtool.Results) -> None:
    """A plugin that is not installed any more, or an address that was trusted in the command of the run."""
    for teacher in ({"use": "gone"}, {"use": "./gone.py:Teacher"}):
        write_results(replace(finished, recipe={**finished.recipe, "teachers": {"teacher": teacher}}))
        with kdtool.open_models("toy") as models:
            with models.open("student") as opened:
                assert next(iter(opened.score(["ab"]))).tokens
            with pytest.raises(kdtool.RecipeError, match="gone"):
                models.open("teacher")


def test_a_folder_is_one_model(finished: kdtool.Results, tmp_path: Path) -> None:
    with kdtool.open_models(finished.arms[0].path) as models:
        assert models.results is None
        (name,) = models.subjects
        with pytest.raises(kdtool.UsageError, match="no installed plugin opens"):
            models.open(name)


def test_a_run_that_is_not_there_is_refused() -> None:
    with (
        pytest.raises(kdtool.UsageError, match="'absent' is not a model, nor a finished run"),
        kdtool.open_models("absent"),
    ):
        pass


class Fixed(kdtool.Runtime):
    """Answers with one text."""

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        for request in requests:
            yield kdtool.TextAnswer(request.id, "whole", "length", 3, 5, reason="why")


def test_by_default_the_whole_answer_is_one_piece() -> None:
    pieces = list(Fixed().stream(kdtool.Request("1", "any", 5)))
    assert pieces == [kdtool.TextPiece("whole", 3, 5, "length", "why")]


def test_younger_fields_change_no_key_of_stored_answers_unless_they_are_set() -> None:
    teacher = kdtool.Teacher(kdtool.Teacher.Config())
    plain = kdtool.Request("1", "p", 5, ("\n",), 0.5, 3)
    content = ["Teacher", teacher.answer_cache_key, "", {
        "prompt": "p", "max_tokens": 5, "stop": ["\n"], "temperature": 0.5, "seed": 3, "turns": [],
    }]  # fmt: skip
    assert teacher.answer_key(plain) == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    keys = {teacher.answer_key(kdtool.Request("1", "p", 5, suffix=suffix)) for suffix in (None, "", "s")}
    assert len(keys) == 3


def test_a_teacher_that_cannot_be_opened_is_not_taken_for_another(recipe: dict[str, Any], tmp_path: Path) -> None:
    del recipe["teacher"]
    recipe["evaluators"] = {"opened": variant("Opened")}
    recipe["teachers"] = {"toy": use("Teacher"), "far": variant("Server")}
    recipe["train"]["losses"]["imitate"]["teacher"] = "toy"
    results = kdtool.run({**recipe, "seeds": [0], "control": False})
    assert {measurement.subject for measurement in results.measurements} == {"teachers.toy", "student", "student-json"}
    left = ("opened: teachers.far is left out", "opened: somebody is left out")
    assert results.notes[-2:] == left, "each line once"
    again = kdtool.run({**recipe, "seeds": [0], "control": False})
    assert all(stage.reused for stage in again.stages)
    assert again.notes[-2:] == left
