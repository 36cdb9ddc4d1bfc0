"""What components lack on this machine is said all at once, with places, before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest

LACKING = '''
from pathlib import Path

import kdtool


class Heavy(kdtool.Transform):
    """Needs two things."""

    def kdtool_check(self, run, when):
        return [text for text in ("no GPU: leave it out", "no compiler: get one") if not Path("there").exists()]

    def kdtool_close(self):
        Path("closed").touch()


class Deep(kdtool.Screen):
    """Needs another one."""

    def kdtool_check(self, run, when):
        return None if Path("there").exists() else ["no library: pip install deep"]

    def kdtool_screen(self, run, examples):
        return [None for _ in examples]


class Wrong(kdtool.Transform):
    """Says it wrongly."""

    def kdtool_check(self, run, when):
        return "no GPU"
'''


@pytest.fixture
def lacking(recipe: dict[str, Any]) -> dict[str, Any]:
    """The toy's recipe with components that lack something until a file `there` is there."""
    Path("lacking.py").write_text(LACKING, encoding="utf-8")
    recipe["train"]["transforms"] = {"heavy": {"use": "./lacking.py:Heavy"}}
    return {**recipe, "screens": {"deep": {"use": "./lacking.py:Deep"}}}


def test_all_that_is_missing_is_said_before_anything_is_made(lacking: dict[str, Any]) -> None:
    for ask in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError) as caught:
            ask(lacking)
        assert [(problem.key, problem.message) for problem in caught.value.problems] == [
            ("screens.deep", "no library: pip install deep"),
            ("train.transforms.heavy", "no GPU: leave it out"),
            ("train.transforms.heavy", "no compiler: get one"),
        ]
        assert Path("closed").exists()
    assert not list(Path().rglob("manifest.json"))
    assert not Path("runs").exists()  # no tracker heard of a run that could not begin
    Path("there").touch()
    kdtool.check(lacking)
    assert kdtool.run(lacking).verdict


def test_a_wrong_answer_is_the_plugins_fault(lacking: dict[str, Any]) -> None:
    lacking["train"]["transforms"]["heavy"]["use"] = "./lacking.py:Wrong"
    Path("there").touch()
    with pytest.raises(kdtool.PluginError, match=r"kdtool_check must return .*, but returned"):
        kdtool.check(lacking)
