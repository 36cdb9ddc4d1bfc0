"""Plugins that misbehave when imported, and distributions with broken metadata: named, and nobody else suffers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import kdtool
import pytest
from kdtool._cli import call
from kdtool._plugins.registry import load
from plugin_site import forget_installed, install
from toy_recipe import Recipe

GOOD = "import kdtool\nclass X(kdtool.TokenLoss):\n    'A loss.'\n    def kdtool_token_loss(self, chunk): ...\n"
CONFIG = "class Config(kdtool.Config):\n"
ENTRY = "[kdtool.losses]\nx-bad = x_bad:X\n"


@pytest.fixture
def site(site: Path) -> Path:
    """A folder on `sys.path` with the good distribution x-good 1.0."""
    install(site, "x-good", "[kdtool.losses]\nx-good = x_good:X\n", {"x_good.py": GOOD})
    return site


def _bad(site: Path, source: str = GOOD, entry: str = ENTRY, metadata: str | None = None, **files: bytes) -> None:
    """Install a bad distribution; `files` are written as its metadata."""
    install(site, "x-bad", entry, {"x_bad.py": source}, metadata)
    for name, content in files.items():
        (site / "x_bad-1.0.dist-info" / name.replace("_txt", ".txt")).write_bytes(content)
    forget_installed()


@pytest.mark.parametrize("end", ["", "raise ValueError"])
@pytest.mark.parametrize(
    "source",
    [
        "print('noise')",
        "import os; os.write(1, b'noise')",
        "import sys; sys.__stdout__.write('noise')",
        "import os; os.system('echo noise')",
    ],
)
def test_output_of_an_import_does_not_mix_with_results(
    source: str, end: str, site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _bad(site, f"{source}\n{end}\n{GOOD}")
    assert call(["plugins", "show", "x-bad"]) == (1 if end else 0)
    printed = capfd.readouterr()
    assert "noise" in printed.err
    assert "noise" not in printed.out
    os.write(1, b"result")
    assert capfd.readouterr().out == "result"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import sys; sys.exit(0)", "it ends the process (exit code 0)"),
        ("import os; os._exit(0)", "it ends the process (exit code 0)"),
        ("from os import _exit; _exit(3)", "it ends the process (exit code 3)"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("raise ValueError('first\\nsecond')", "ValueError: first;"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "cannot be imported: E;"),
        ("import x_bad_nothing", "the module 'x_bad_nothing' is missing"),
        ("def broken(:", "SyntaxError"),
        ("a = 1", "AttributeError"),
    ],
)
def test_what_goes_wrong_when_imported_names_the_distribution(
    source: str, cause: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _bad(site, source)
    assert call(["plugins", "show", "x-bad"]) == 1
    said = capsys.readouterr().err
    assert "loss 'x-bad' (entry point 'x_bad:X' of x-bad 1.0) cannot be imported" in said
    assert cause in said
    assert "Traceback" not in said
    assert call(["plugins", "show", "x-good"]) == 0


@pytest.mark.parametrize("left", ["threading.Thread(target=time.sleep, args=(60,), name='x-left').start()", "atexit"])
def test_what_a_plugin_leaves_running_does_not_keep_a_command_from_ending(left: str, site: Path) -> None:
    """With the code and the message of the command."""
    left = "atexit.register(time.sleep, 60)" if left == "atexit" else left
    _bad(site, f"import atexit, threading, time\n{left}\n1 / 0")
    program = "from kdtool._cli import failure, main; failure._PATIENCE = 1; main()"
    command = [sys.executable, "-c", program, "plugins", "show", "x-bad"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=40)
    assert done.returncode == 1
    assert "cannot be imported: ZeroDivisionError" in done.stderr
    assert f"stopped: {'x-left' if 'x-left' in left else 'functions registered with atexit'}\n" in done.stderr


@pytest.mark.parametrize(
    ("entry", "metadata", "message"),
    [
        ("[kdtool.losses]\nx-bad = x_bad\n", None, "an entry point names a class as `module:Class`"),
        ("[kdtool.losses]\nx-bad = a b:c d\n", None, "an entry point names a class as `module:Class`"),
        ("[kdtool.losses]\nx-bad = x_bad:X.Y.Z\n", None, "cannot be imported: AttributeError"),
        (ENTRY, "", ""),
        (ENTRY, "Metadata-Version: 2.1\nName: x-bad\nVersion: 1.0\nRequires-Dist: ~~~\n", ""),
    ],
)
def test_broken_metadata_is_named(
    entry: str, metadata: str | None, message: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _bad(site, entry=entry, metadata=metadata)
    assert call(["--help"]) == call(["plugins", "list"]) == call(["plugins", "show", "x-good"]) == 0
    capsys.readouterr()
    assert call(["plugins", "show", "x-bad"]) == (1 if message else 0)
    said = capsys.readouterr().err
    assert message in said
    assert not message or "x-bad" in said or "x_bad" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("content", [b"[kdtool.losses]\nno equals sign\n", b"\xff\xfe"])
def test_a_distribution_that_cannot_be_read_is_skipped_with_a_note(
    content: bytes, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["plugins", "show", "x-good"]) == 0  # pydantic reads all entry points, too, when it is first used
    _bad(site, entry_points_txt=content)
    assert call(["--help"]) == call(["plugins", "show", "x-good"]) == call(["schema"]) == 0
    assert capsys.readouterr().err.count("note: skipped x_bad-1.0.dist-info, its entry points cannot be read") == 1
    assert call(["plugins", "show", "x-bad"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    command = [sys.executable, "-m", "kdtool", "plugins", "show", "x-good"]  # a new process, in which others look, too
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(site)}, check=True, capture_output=True)
    assert b"A loss." in done.stdout


def test_a_distribution_whose_metadata_cannot_be_read_has_no_name(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _bad(site, METADATA=b"\xff\xfe\x00")
    assert call(["plugins", "list"]) == call(["plugins", "show", "x-bad"]) == call(["plugins", "show", "x-good"]) == 0
    assert "x-bad" in capsys.readouterr().out


def test_an_unknown_group_is_named_with_the_one_that_was_meant(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _bad(site, entry="[kdtool.loss]\nx-bad = x_bad:X\n")
    assert call(["plugins", "list"]) == 0
    said = capsys.readouterr().err
    assert "x-bad registers 'x-bad' under 'kdtool.loss', which is not an entry-point group of kdtool; did you" in said
    with pytest.raises(kdtool.UsageError, match=r"no loss is called 'x-bad'.*registers 'x-bad' under"):
        load("loss", "x-bad", site, print)


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("X = 3", 1, "command 'x-bad' of x-bad 1.0 must be a click command, but is int"),
        ("1 / 0", 1, "command 'x-bad' (entry point 'x_bad:X' of x-bad 1.0) cannot be imported: ZeroDivisionError"),
        ("import os; os._exit(0)", 1, "(entry point 'x_bad:X' of x-bad 1.0) cannot be imported: it ends the process"),
        ("raise KeyboardInterrupt", 130, "interrupted while importing command 'x-bad' (entry point 'x_bad:X' of x-bad"),
        ("import click, sys\n@click.command()\ndef X(): sys.exit(7)", 7, ""),
        ("import click, sys\n@click.command()\ndef X(): sys.exit('bye')", 1, "error: bye"),
        ("import click\n@click.command()\n@click.pass_context\ndef X(c): c.exit(6)", 6, ""),
    ],
)
def test_a_command_that_is_none_is_named(
    source: str, code: int, message: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _bad(site, source, "[kdtool.commands]\nx-bad = x_bad:X\n")
    assert call(["x-bad"]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def __new__(cls, config): return 3", "building it gives something of class int"),
        ("def __init__(self): pass", "failed in its constructor: TypeError"),
        (
            "def __init__(self, config): raise kdtool.BudgetError('no')",
            "no\n  in loss 'train.losses.own' (x-bad, x-bad 1.0)",
        ),
        ("needs = {'logits'}", "or tuple, but is an object of class builtins.set"),
        ("forward_passes = 3", "its attribute forward_passes must be one of 1, 2, but is 3"),
        ("kdtool_token_loss = []", "has kdtool_token_loss as list; a hook is a plain method"),
        ("Config = property(lambda self: 1 / 0)", "has a Config that does not extend kdtool.Config"),
        (f"{CONFIG}        x: int = 10**5000", "failed in its class: ValueError"),
        (f"{CONFIG}        x: type = int", "failed in its class: PydanticSerializationError"),
        (f"{CONFIG}        def model_post_init(self, context): raise ValueError('no')", "loss 'x-bad': no"),
        (f"{CONFIG}        def model_post_init(self, context): raise KeyError('no')", "failed in its class: KeyError"),
        (f"{CONFIG}        def __init__(self, **given): raise SystemExit", "tried to end the process"),
        ("def __init__(self, config): __import__('os')._exit(0)", "tried to end the process (exit code 0)"),
        ("def kdtool_check(self, run, when): __import__('os')._exit(3)", "tried to end the process (exit code 3)"),
        (f"{CONFIG}        use: str = ''", "has a Config field named 'use', which is a key of kdtool itself"),
    ],
)
def test_what_a_class_does_wrong_is_named_when_the_recipe_is_checked(
    source: str, message: str, site: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    _bad(site, f"{GOOD}    {source}\n")
    recipe["train"]["losses"]["own"] = {"use": "x-bad"}
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    code = call(["check", "recipe.yaml"])
    said = capsys.readouterr().err
    assert code == (3 if "BudgetError" in source else 2 if "ValueError" in source else 1), said
    assert message in said
    assert "x-bad" in said
    assert "Traceback" not in said
