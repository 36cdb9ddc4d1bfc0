"""The option `--debug`: kdtool's own before a command and among its own commands' options, a plugin's everywhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdtool._cli import call
from plugin_site import install

COMMAND = """
import click


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--debug", is_flag=True)
@click.argument("rest", nargs=-1)
def command(debug, rest):
    "Shows what it is given."
    click.echo(f"debug={debug} rest={rest}")
    if "fail" in rest:
        raise ValueError("no")
"""


@pytest.fixture(autouse=True)
def _command(site: Path) -> None:
    install(site, "x-command", "[kdtool.commands]\nx-shown = x_command:command\n", {"x_command.py": COMMAND})


@pytest.mark.parametrize(
    ("arguments", "shown", "traceback"),
    [
        ("--debug x-shown --debug one", "debug=True rest=('one',)", False),
        ("x-shown --debug fail", "debug=True", False),
        ("--debug x-shown fail", "debug=False", True),
        ("x-shown -- --debug", "rest=('--debug',)", False),
    ],
)
def test_a_plugin_s_command_has_a_debug_option_of_its_own(
    capsys: pytest.CaptureFixture[str], arguments: str, shown: str, traceback: bool
) -> None:
    assert call(arguments.split()) == ("fail" in arguments)
    out, err = capsys.readouterr()
    assert shown in out
    assert ("Traceback" in err) == traceback
    assert ("run `kdtool --debug …`" in err) == ("fail" in arguments)
    assert "inished work is kept" not in err


@pytest.mark.parametrize(
    ("arguments", "traceback"),
    [("run --debug none.yaml", True), ("plugins show --debug none", True), ("run -- --debug", False)],
)
def test_kdtool_s_own_commands_take_it_anywhere(
    capsys: pytest.CaptureFixture[str], arguments: str, traceback: bool
) -> None:
    assert call(arguments.split()) == 2
    assert ("Traceback" in (err := capsys.readouterr().err)) == traceback
    assert ("'--debug' not found" in err) == (arguments == "run -- --debug")
