"""Output of the command line: figures, excerpts of recipes, plans in short, and colours only in terminals."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._cli import call, plugins, run, shared
from kdtool._cli.check import _options
from kdtool._recipe.yaml import read_scalar
from kdtool._text import terminal
from kdtool._text.terminal import figure, signed_difference


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


def test_a_difference_that_is_shown_is_not_zero() -> None:
    assert signed_difference(0.0003, 0.00004, 0.0009, relative=True) == "+0.030 %, 95 % interval +0.004 to +0.090"
    assert signed_difference(-0.19, -0.3, 0.1, relative=True) == "-19 %, 95 % interval -30 to +10"
    assert signed_difference(0.0, 0.0, 0.0, relative=False) == "+0, 95 % interval +0 to +0"


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
    assert capsys.readouterr().err.endswith(
        f"error: recipe 'recipe.yml' not found: no file {Path.cwd() / 'recipe.yml'}\n    did you mean 'recipe.yaml'?\n"
    )


def test_a_missing_recipe_is_looked_for_in_recipes_and_not_among_hidden_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdtool._recipe.layers.list_plugins", lambda group: [])
    (tmp_path / "recipes").mkdir()
    for name in ("recipes/quickstart.yaml", ".hidden.yaml"):
        (tmp_path / name).touch()
    assert call(["run", "quickstart.yaml"]) == 2
    assert "did you mean 'recipes/quickstart.yaml'?" in capsys.readouterr().err
    assert call(["run", "other.yaml"]) == 2
    assert capsys.readouterr().err.endswith("recipes: recipes/quickstart.yaml\n")


@pytest.mark.parametrize(
    "arguments", [[], ["-h"], ["--help"], ["help"], ["help", "run"], ["run", "--help"]], ids=" ".join
)
def test_help_is_help_and_no_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(arguments) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Usage: kdtool run" if "run" in arguments else "Usage: kdtool [OPTIONS] COMMAND")
    assert printed.err == ""


def test_a_models_folder_that_is_taken_for_a_run_is_measured_by_eval(capsys: pytest.CaptureFixture[str]) -> None:
    Path("one").mkdir()
    for command in (["compare", "one", "one"], ["show", "one"], ["report", "one"]):
        assert call(command) == 2
        assert (
            "'one' is not a finished run; to measure and compare models: kdtool eval one --with"
            in capsys.readouterr().err
        )


def test_wrong_arguments_are_errors_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["show"]) == 2
    error = "error: Missing argument 'RUN'.\n  Usage: kdtool show [OPTIONS] RUN\n  Help: kdtool show --help\n"
    assert capsys.readouterr().err == error


def test_a_plan_names_reused_stages_only_if_asked_for(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["run", "recipe.yaml", "--plan"]) == 0
    first, *titles = capsys.readouterr().out.splitlines()
    assert first == f"{len(titles)} stages to make: nothing is there yet"
    assert all(re.fullmatch(r"↻ run {7}\S+( \S+)*", title) for title in titles)
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


SLOW = """
import kdtool, time
time.sleep(0.5)  # in {}
class Slow(kdtool.Tracker):
    shows_messages = True
    kdtool_message = lambda self, run, text: None
    def kdtool_describe(self, run):
        kdtool.say("describing", err=True)
        time.sleep(0.5)
        return None
"""


@pytest.mark.parametrize("arguments", ["run", "run --plan", "check", "check --json", "eval --json --recipe"])
def test_a_command_is_not_silent_before_its_run(
    arguments: str, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_MOST_SILENCE", 0.2)
    recipe["trackers"]["slow"] = {"use": "./slow.py:Slow"}
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    Path("slow.py").write_text(SLOW.format(Path.cwd()), encoding="utf-8")
    assert call([*arguments.split(), "recipe.yaml"]) == 0
    printed = capsys.readouterr()
    first, *others = printed.err.splitlines()
    assert first.startswith("reading ")
    for part in (others, others[0 if "eval" in arguments else others.index("describing") :]):
        assert [line for line in part if line.startswith(f"{first} ") and line.endswith(" s so far")]
    assert "json" not in arguments or json.loads(printed.out)
    time.sleep(0.3)
    assert capsys.readouterr().err == "", "the command has ended"


_BEAT = re.compile(r"asking … \d+ s so far")


def _wait_for(shown: io.StringIO, beats: int) -> None:
    deadline = time.monotonic() + 60
    while len(_BEAT.findall(shown.getvalue())) < beats:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["xterm", "dumb", "pipe"])
def test_the_time_is_rewritten_in_the_last_line_of_a_terminal(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other lines are whole, and only what began last is repeated, also where another stream is standard error by then."""
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    monkeypatch.setattr(shown, "isatty", lambda: kind != "pipe")
    monkeypatch.setattr(terminal, "_MOST_SILENCE", 0.09 if kind != "pipe" else 0.03)
    for name, value in {"COLUMNS": "60", "TERM": kind}.items():
        monkeypatch.setenv(name, value)
    with terminal.waiting("reading …"), terminal.waiting("asking …"):
        _wait_for(shown, 1)
        terminal.say("a note", err=True)
        with redirect_stderr(io.StringIO()):
            _wait_for(shown, 3)
    lines = [line.rpartition("\x1b[K")[2] for line in shown.getvalue().split("\n")]
    expected = ["reading …", "asking …", "a note", *(_BEAT.findall(shown.getvalue()) if kind != "xterm" else ()), ""]
    assert sorted(lines) == sorted(expected)
    assert kind == "xterm" or "\x1b" not in shown.getvalue()


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


@given(st.recursive(PLAIN | TEXTS, lambda inner: st.lists(inner), max_leaves=4), st.sampled_from(["hf", "kdtool"]))
def test_a_proposed_option_is_read_as_the_setting_that_it_stands_for(value: Any, program: str) -> None:
    command = f"    {program} run r.yaml {_options({'student.source': value}, {'seeds': '[0, 1]'})}"
    *others, option = shlex.split(terminal.wrap(command, 20).replace("\\\n", ""))
    assert others == [program, "run", "r.yaml", "--set", "seeds=[0, 1]", "--set"]
    key, _, written = option.partition("=")
    assert (key, read_scalar(written)) == ("student.source", value)


COMMANDS = [
    ["check", "recipe.yaml"],
    ["check", "recipe.yaml", "--set", "colour=red"],
    ["check", "recipe.yaml", "--memory", "90KB", "--set", "train.steps=9"],
    ["run", "recipe.yaml"],
    ["run", "recipe.yaml", "--plan", "-v"],
    ["show", "toy"],
    ["show", "toy", "--all"],
    ["compare", "toy", "base"],
    ["runs"],
    ["clean"],
    ["plugins", "show", "nobody"],
    ["plugins", "list"],
    ["run", "recipe.yaml", "--plan", "--set", "train.steps=9"],
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
            for module in (terminal, shared, plugins, run):
                monkeypatch.setattr(module, "width_of", lambda _, columns=columns: columns)
            call(arguments)
            shown.append("\n".join(capsys.readouterr()))
        piped, wrapped = shown
        words, whole = ({re.sub(r"\d+", "0", word.rstrip(":")) for word in text.split()} for text in (wrapped, piped))
        assert words - {"…", "\\"} <= whole, arguments
        assert "--set" not in arguments or not re.search(r"\S {8,}", wrapped), "columns are as wide as needed"
        assert all(len(line) <= width or len(line.split()) == 1 for line in wrapped.splitlines()), arguments


def test_a_run_ends_with_what_show_prints(recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["run", "recipe.yaml"]) == 0
    printed = capsys.readouterr().out
    assert call(["show", "toy"]) == 0
    assert printed == f"\n{capsys.readouterr().out}"
    assert printed.startswith("\n○ not judged against control and control-time in nats, with fewer than 12 items\n")
