"""Output of the command line: figures, excerpts of recipes, plans in short, and colours only in terminals."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._cli import call, failure, shared
from kdtool._cli.check import _options
from kdtool._recipe.yaml import read_scalar
from kdtool._text import terminal
from kdtool._text.terminal import figure


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((0.2083, "fraction", 0.0009935, 0.5088), "21 % (0–51)"),
        ((0.1667, "fraction", 0.0, 1.0), "17 % (0–100)"),
        ((15.92, "per token", 15.11, 16.79), "15.9 (15.1–16.8)"),
        ((-0.3, "nats", -0.5, 0.52), "-0.30 (-0.50 to 0.52)"),
        ((3.9681, "nats", 3.9681, 3.9681), "3.968 (3.968–3.968)"),
        ((134_515_008, "parameters"), "135 M"),
        ((590_400, "bytes"), "590 kB"),
        ((0.0, "bytes"), "0"),
        ((0.089, "s"), "0.0890 s"),
        ((float("inf"), "per token", 3.0, float("inf")), "∞ (3–∞)"),
    ],
)
def test_a_figure_has_the_digits_that_its_interval_justifies(arguments: Any, shown: str) -> None:
    assert figure(*arguments) == shown


def test_an_error_shows_the_line_of_the_recipe(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    lines = [f"{key}: {json.dumps(value)}" for key, value in recipe.items()]
    path.write_text("\n".join([*lines, "colour:  red", ""]), encoding="utf-8")
    assert call(["check", str(path)]) == 2
    number = len(lines) + 1
    excerpt = f"      {number} | colour:  red\n      {' ' * len(str(number))} | ^^^^^^\n"
    assert f"{path}:{number}:1: colour: unknown key\n{excerpt}" in capsys.readouterr().err


def test_a_missing_recipe_is_not_found_and_similar_ones_are_named(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["check", "recipe.yml"]) == 2
    assert capsys.readouterr().err == "error: recipe 'recipe.yml' not found\n    did you mean 'recipe.yaml'?\n"


def test_a_missing_recipe_is_looked_for_in_recipes_and_not_among_hidden_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    for name in ("recipes/quickstart.yaml", ".hidden.yaml"):
        (tmp_path / name).touch()
    assert call(["run", "quickstart.yaml"]) == 2
    assert "did you mean 'recipes/quickstart.yaml'?" in capsys.readouterr().err
    assert call(["run", "other.yaml"]) == 2
    assert capsys.readouterr().err.endswith("recipes there: recipes/quickstart.yaml\n")


def test_wrong_arguments_are_errors_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["show"]) == 2
    error = "error: Missing argument 'RUN'.\n  Usage: kdtool show [OPTIONS] RUN\n  Help: kdtool show --help\n"
    assert capsys.readouterr().err == error


def test_a_plan_names_reused_stages_only_if_asked_for(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    count = len(kdtool.run(recipe).stages)
    capsys.readouterr()
    assert call(["run", "recipe.yaml", "--plan"]) == 0
    assert re.fullmatch(r"✓ \d+ stages reused\n", capsys.readouterr().out)
    assert call(["run", "recipe.yaml", "--plan", "-v"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line[:9] for line in lines} == {"✓ reuse  "}
    assert len(lines) <= count
    assert call(["run", "recipe.yaml", "--plan", "--set", "train.steps=9"]) == 0
    first, *changed = capsys.readouterr().out.splitlines()
    assert first.startswith("✓ ")
    assert any(re.match(r"↻ run +training of student, seed 0 .* steps \d+ → 9", line) for line in changed)


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
@pytest.mark.parametrize("no_color", ["", "1"])
def test_only_terminals_get_colours(recipe: dict[str, Any], no_color: str, capsys: pytest.CaptureFixture[str]) -> None:
    import pty

    kdtool.run(recipe)
    capsys.readouterr()
    assert call(["show", "toy"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    child, terminal = pty.fork()
    if child == 0:
        os.environ["NO_COLOR"] = no_color
        os.execv(sys.executable, [sys.executable, "-m", "kdtool", "show", "toy"])  # noqa: S606 - no shell is needed
    shown = bytearray()
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # Linux reports the end of a terminal so
        pass
    os.waitpid(child, 0)
    assert b"nats" in shown
    assert (b"\x1b[" in shown) == (not no_color)


TEXTS = st.text(st.characters(codec="ascii", exclude_categories=["C"]))
PLAIN = st.none() | st.booleans() | st.integers(-99, 99)


@given(st.recursive(PLAIN | TEXTS, lambda inner: st.lists(inner, max_size=3), max_leaves=4))
def test_a_proposed_option_is_read_as_the_setting_that_it_stands_for(value: Any) -> None:
    key, _, written = shlex.split(_options({"student.source": value}))[1].partition("=")
    assert (key, read_scalar(written)) == ("student.source", value)


COMMANDS = [
    ["check", "recipe.yaml"],
    ["check", "recipe.yaml", "--set", "colour=red"],
    ["run", "recipe.yaml"],
    ["run", "recipe.yaml", "--plan", "-v"],
    ["show", "toy"],
    ["show", "toy", "--all"],
    ["compare", "toy", "base"],
    ["runs"],
    ["clean"],
    ["plugins", "show", "nobody"],
]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_word_is_broken_at_any_width(
    width: int, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words are those of a pipe, and only a word that is longer than the terminal exceeds it."""
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    kdtool.run(recipe)
    kdtool.run({**recipe, "name": "base"})
    capsys.readouterr()
    for arguments in COMMANDS:
        shown = []
        for columns in (None, width):
            for module in (terminal, shared, failure):
                monkeypatch.setattr(module, "width_of", lambda _, columns=columns: columns)
            call(arguments)
            shown.append("\n".join(capsys.readouterr()))
        piped, wrapped = shown
        words = {word.rstrip(":") for word in piped.split()}
        assert {word.rstrip(":") for word in wrapped.split()} <= words, arguments
        assert all(len(line) <= width or len(line.split()) == 1 for line in wrapped.splitlines()), arguments


def test_a_run_ends_with_what_show_prints(recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["run", "recipe.yaml"]) == 0
    printed = capsys.readouterr().out
    assert call(["show", "toy"]) == 0
    assert printed == f"\n{capsys.readouterr().out}"
    assert printed.startswith("\n○ not judged against control and control-time in nats, with fewer than 12 items\n")
