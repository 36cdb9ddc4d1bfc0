"""Missing text for measurements and impossible exports are reported all at once, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest

PICKY = '''
from pathlib import Path

import kdtool


class Picky(kdtool.Evaluator):
    """Wants more text than there is, until a file `there` is there."""

    class Config(kdtool.Config):
        """The least text."""

        documents: int = 100
        """Documents at least."""

    def kdtool_check(self, run, when):
        if when != "text":
            return
        count = len(list(run.texts.examples("test")))
        if count < self.config.documents and not Path("there").exists():
            raise kdtool.UsageError(f"{count} documents are less than {self.config.documents}")

    def kdtool_evaluate(self, run, subjects):
        return iter(())
'''


@pytest.fixture
def picky(recipe: dict[str, Any]) -> dict[str, Any]:
    Path("picky.py").write_text(PICKY, encoding="utf-8")
    use = "./picky.py:Picky"
    return {
        **recipe,
        "evaluators": {"some": {"use": use, "documents": 50}, "many": {"use": use}, **recipe["evaluators"]},
    }


def test_all_refusals_come_at_once_before_training(picky: dict[str, Any]) -> None:
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.run(picky)
    assert {problem.key: problem.message for problem in caught.value.problems} == {
        "evaluators.some": "4 documents are less than 50",
        "evaluators.many": "4 documents are less than 100",
    }
    assert not list(Path("runs").glob("*/phases/*"))
    assert not list(Path("store").glob("students/*/model_facts.json"))
    Path("there").touch()
    assert kdtool.run(picky).measurements


KEYLESS = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import kdtool, toy

class Keyless(toy.Teacher):
    "Opens what is measured where a file `key` is."
    def kdtool_open(self, run, subject):
        if subject.role == "teacher" and not Path("key").exists():
            raise kdtool.UsageError("there is no key")
        return super().kdtool_open(run, subject)
"""


def test_what_a_teacher_lacks_to_be_measured_is_known_before_training(recipe: dict[str, Any]) -> None:
    Path("keyless.py").write_text(KEYLESS, encoding="utf-8")
    recipe["teacher"] = {"use": "./keyless.py:Keyless"}
    with pytest.raises(kdtool.UsageError, match="there is no key"):
        kdtool.run(recipe)
    assert not list(Path("runs").glob("*/phases/*"))
    Path("key").touch()
    names = [stage.name for stage in kdtool.run(recipe).stages]
    assert names.index("scores/nats-teacher") < names.index("phases/student-seed0-train")


CHOOSY = '''
from pathlib import Path

import kdtool


class Choosy(kdtool.Exporter):
    """Writes one model of another kind."""

    def kdtool_check(self, run, when):
        assert not (run.folder / "phases").exists()
        if when == "student":
            return [f"cannot be written: {sorted(path.name for path in run.untrained.iterdir())}"]

    def kdtool_export(self, run, trained):
        raise AssertionError
'''


def test_what_cannot_be_exported_is_refused_before_training(recipe: dict[str, Any]) -> None:
    Path("choosy.py").write_text(CHOOSY, encoding="utf-8")
    recipe["exporters"] = {name: {"use": "./choosy.py:Choosy"} for name in ("one", "other")}
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.run(recipe)
    said = "cannot be written: ['counts.json']"
    assert {problem.key: problem.message for problem in caught.value.problems} == {
        "exporters.one": said,
        "exporters.other": said,
    }
    assert not list(Path("runs").glob("*/phases/*"))


def test_measuring_alone_asks_as_well(picky: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps(picky), encoding="utf-8")
    Path("there").touch()
    student = kdtool.run(file).arms[0].path
    Path("there").unlink()
    with pytest.raises(kdtool.RecipeError, match="4 documents are less than 50"):
        kdtool.evaluate([student], recipe=file)
