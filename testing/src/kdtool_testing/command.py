"""The suite of commands."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import click

from kdtool_testing.offered import OfferedConformance

__all__ = ["CommandConformance"]


class CommandConformance(OfferedConformance):
    """A command of `kdtool` helps, refuses what it does not know, and costs nothing before it is used."""

    kind: ClassVar[str] = "command"
    command: ClassVar[Any]
    """The click command under test."""

    @classmethod
    def _unset(cls) -> str:
        """Return an instruction if the command under test is missing."""
        return (
            "" if hasattr(cls, "command") else "write `command = …`, the click command (`component` is for components)"
        )

    def test_it_is_a_command_that_says_what_it_does(self) -> None:
        assert isinstance(self.command, click.Command)
        assert self.command.get_short_help_str(), "give the command a docstring: its first line is shown in lists"

    def test_its_options_and_arguments_are_explained(self) -> None:
        for command in _with_subcommands(self.command):
            assert command.help, f"the command {command.name} has no docstring"
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    assert parameter.help or parameter.hidden, f"option {parameter.opts} has no help"

    def test_help_is_shown_under_its_name(self) -> None:
        done = self._run("--help")
        assert done.returncode == 0, done.stderr
        assert f"kdtool {self.entry_point}" in done.stdout

    def test_an_unknown_option_is_a_wrong_call_and_no_crash(self) -> None:
        done = self._run("--no-such-option")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "--no-such-option" in done.stderr

    def _offer(self) -> Any:
        return self.command

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kdtool", self.entry_point, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")  # noqa: S603


def _with_subcommands(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _with_subcommands(inner)
