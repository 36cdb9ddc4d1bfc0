"""Places and arguments that are no user's wish: user errors with exit code 2, never a bug of kdtool."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdtool import load
from kdtool._cli import call

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links and devices of POSIX")


@pytest.fixture
def file(recipe: dict[str, Any], tmp_path: Path) -> str:
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "above.yaml").write_text("extends: loop.yaml\n", encoding="utf-8")
    return "recipe.yaml"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["loop.yaml"], "recipe 'loop.yaml' cannot be read"),
        (["above.yaml"], "loop.yaml' cannot be read"),
        (["recipe.yaml", "--set", f"{'a.' * 3000}a=1"], "…: is nested deeper than 20 levels"),
    ],
)
def test_odd_places_and_arguments_are_user_errors(
    file: str, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["check", *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "bug in kdtool" not in said


FAILS = """
import kdtool
from toy import Nats

class AtWork(Nats):
    def kdtool_evaluate(self, run, subjects):
        return self.nothing

class AtBirth(Nats):
    def __init__(self, config):
        self.config = config.nothing
"""


@pytest.mark.parametrize(("name", "line"), [("AtWork", 7), ("AtBirth", 11)])
def test_an_error_in_the_user_s_own_file_has_its_line(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, line: int
) -> None:
    (tmp_path / "bad.py").write_text(FAILS, encoding="utf-8")
    recipe = {**recipe, "seeds": [0], "control": False, "evaluators": {"mine": {"use": f"./bad.py:{name}"}}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["run", "recipe.yaml"]) == 1
    said = capsys.readouterr().err
    assert "AttributeError" in said
    assert f"(bad.py:{line})" in said


EVALUATORS = """
import kdtool
from toy import Nats, Imitate, Teacher

class Nothing(Nats):
    def kdtool_evaluate(self, run, subjects):
        yield from ()

class Undeclared(Nats):
    measurements = ("number", "of-*")
    def kdtool_evaluate(self, run, subjects):
        for subject in subjects:
            yield kdtool.Measurement("of-mine", subject.name, "count", 1.0, 1, True)
            yield kdtool.Measurement("count", subject.name, "count", 1.0, 1, True)

class Misspelt(Imitate):
    needs = "logit"

class Plain(Teacher):
    offers = "logits"
"""


@pytest.fixture
def run_with(recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the toy recipe with one component from a file, and returns the messages."""
    (tmp_path / "own.py").write_text(EVALUATORS, encoding="utf-8")

    def run(code: int, key: str, use: str) -> str:
        smaller = {**recipe, "seeds": [0], "control": False}
        (tmp_path / "recipe.yaml").write_text(json.dumps(smaller), encoding="utf-8")
        assert call(["run", "recipe.yaml", "--set", f"{key}={{use: ./own.py:{use}}}"]) == code
        return capsys.readouterr().err

    return run


def test_an_evaluator_that_yields_nothing_is_noted(run_with: Callable[..., str]) -> None:
    run_with(0, "evaluators.mine", "Nothing")
    assert "mine measured nothing of student-seed0" in load("toy").notes


def test_a_measurement_that_is_not_declared_is_refused(run_with: Callable[..., str]) -> None:
    said = run_with(1, "evaluators.mine", "Undeclared")
    assert "returned a measurement 'count', but its attribute `measurements` declares only number, of-*" in said


def test_a_misspelt_signal_is_refused_in_words(run_with: Callable[..., str]) -> None:
    said = run_with(1, "train.losses.imitate", "Misspelt")
    assert "its attribute needs must be one of 'logits', 'sampled'," in said
    assert " or tuple, but is 'logit'" in said
    assert "Literal" not in said
    assert "its attribute offers must be frozenset, but is 'logits'" in run_with(1, "teacher", "Plain")


def test_a_file_that_is_still_imported_is_named_and_one_that_ends_the_process_fails(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdtool._plugins.registry._PATIENCE", 0.01)
    (tmp_path / "slow.py").write_text("import sys, time\nwhile 'kdtool.late' not in sys.modules: time.sleep(0.01)\n")
    monkeypatch.setattr("kdtool._plugins.registry.print_line", lambda line: sys.modules.update({"kdtool.late": line}))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "kdtool.late", None)
        del sys.modules["kdtool.late"]
        (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, "trackers": {"a": {"use": "./slow.py:A"}}}))
        assert call(["check", "recipe.yaml"]) == 1
        assert str(sys.modules["kdtool.late"]) == "still importing './slow.py:A' …"
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, "trackers": {"a": {"use": "./leaves.py:A"}}}))
    assert call(["check", "recipe.yaml"]) == 1
    assert "leaves.py:2: it calls sys.exit(0)" in capsys.readouterr().err
