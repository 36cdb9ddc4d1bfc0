"""A teacher is opened by itself or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool

TOY = Path(__file__).with_name("toy.py")
SERVER = '''
import kdtool


class Server(kdtool.Teacher):
    """A teacher whose model is elsewhere, so that it cannot be opened."""

    offers = frozenset({"text"})

    def kdtool_answer(self, requests):
        yield from ()


class Opened(kdtool.Evaluator):
    """Says 1 of what can be opened."""

    def kdtool_evaluate(self, run, subjects):
        for subject in subjects:
            opened = kdtool.open_subject(run, subject)
            if opened is not None:
                opened.value.close()
                yield kdtool.Measurement("opened", subject.name, "", 1.0, 1, True)
            else:
                run.say(f"opened: {subject.name} is left out")
                run.say("opened: somebody is left out")
'''


def test_a_teacher_that_cannot_be_opened_is_not_taken_for_another(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER, encoding="utf-8")
    del recipe["teacher"]
    recipe["evaluators"] = {"opened": {"use": f"{tmp_path / 'server.py'}:Opened"}}
    recipe["teachers"] = {"toy": {"use": f"{TOY}:Teacher"}, "far": {"use": f"{tmp_path / 'server.py'}:Server"}}
    recipe["train"]["losses"]["imitate"]["teacher"] = "toy"
    results = kdtool.run({**recipe, "seeds": [0], "control": False})
    assert {measurement.subject for measurement in results.measurements} == {"teachers.toy", "student", "student-json"}
    left = ("opened: teachers.far is left out", "opened: somebody is left out")
    assert results.notes[-2:] == left, "each line once"
    again = kdtool.run({**recipe, "seeds": [0], "control": False})
    assert all(stage.reused for stage in again.stages)
    assert again.notes[-2:] == left
