"""The command line: kdtool's own commands, and those that plugins add through the entry-point group `kdtool.commands`.

Errors become sentences and exit codes. Commands import what they need when they run, so that help stays fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import click

from kdtool._cli.check import check
from kdtool._cli.failure import exit_with, explain, interrupt_on_stop_signals
from kdtool._cli.plugins import plugins, schema
from kdtool._cli.run import evaluate, run
from kdtool._cli.runs import clean, compare, list_runs, report, show
from kdtool._errors import KdtoolError, PluginError
from kdtool._plugins.distributions import describe, find_known, install_command
from kdtool._plugins.registry import GROUPS, entries_by_name, exit_as_exception, is_of_project, load_plugin
from kdtool._text.names import did_you_mean
from kdtool._text.terminal import end_first_line


class _Commands(click.Group):
    """Imports a plugin when its command is used; help shows descriptions that need no import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(dict.fromkeys((*self.commands, *entries_by_name("command"))))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        return _load_command(cmd_name) if cmd_name in entries_by_name("command") else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; `help COMMAND` means `COMMAND --help`."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BaseException as error:  # not left to click, which takes a plugin's EOFError for Ctrl-C
            if isinstance(error, SystemExit) and ctx.invoked_subcommand not in self.commands:
                if error.code is None or isinstance(error.code, int):
                    ctx.exit(error.code or 0)
                error = KdtoolError(str(error.code))
            ctx.exit(explain(error, debug=bool(ctx.obj)))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.list_commands(ctx):
            ours = find_known("command", args[0])
            near = did_you_mean(args[0], self.list_commands(ctx), what="commands")
            hint = f"get it with: {install_command(ours.requirement)}" if ours else near
            raise click.UsageError(f"unknown command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [name for names in _SECTIONS.values() for name in names if self._is_own(name)]
        others = [name for name in self.list_commands(ctx) if name not in own]
        shown = {*own, *others}
        for section, names in {**_SECTIONS, "Plugins": others}.items():
            if rows := [(name, self._summary(name)) for name in names if name in shown]:
                with formatter.section(section):
                    formatter.write_dl(rows)

    def _is_own(self, name: str) -> bool:
        """Return whether a command is kdtool's, or that of an installed package of the project."""
        return name in self.commands or is_of_project("command", name)

    def _summary(self, name: str) -> str:
        if name in self.commands:
            return _first_sentence(self.commands[name].help or "")
        entry = entries_by_name("command")[name][0]
        text = _first_sentence(describe("command", name, entry.point.dist))
        return text if self._is_own(name) else f"{text} ({entry.distribution})"


_LONGEST = 60
_SECTIONS = {
    "Start": ("init", "check", "run"),
    "Use": ("generate", "serve", "push"),
    "Measure": ("show", "compare", "eval", "sweep", "report"),
    "Manage": ("runs", "data", "clean"),
    "Extend": ("plugins", "new", "schema"),
}
"""Sections of `--help`: commands of the core and of the project's installed packages."""


def _first_sentence(text: str) -> str:
    return shorten(text.partition("\n\n")[0].removesuffix("."), _LONGEST, placeholder=" …")


def _load_command(name: str) -> click.Command:
    loaded = load_plugin(GROUPS["command"], name)
    if not isinstance(loaded, click.Command):
        (entry,) = entries_by_name("command")[name]
        owner = f"{entry.distribution} {entry.version}"
        raise PluginError(f"command {name!r} of {owner} must be a click command, but is {type(loaded).__name__}")
    return loaded


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kdtool", message="kdtool %(version)s")
def cli() -> None:
    """Distil large code models into small ones, with plugins for every part.

    A first run:  kdtool run quickstart
    """


def _keep_debug(context: click.Context, _: click.Parameter, debug: bool) -> None:
    if debug:
        context.find_root().obj = True


for _command in (run, evaluate, show, compare, check, plugins, schema, report, list_runs, clean):
    cli.add_command(_command)
for _command in (cli, *cli.commands.values(), *plugins.commands.values()):
    _debug = click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_keep_debug, help="Show the traceback of an error."
    )
    _command.params.append(_debug)
    if _command.callback:  # hooks run in these commands; a command of a plugin may end its process as it likes
        _command.callback = exit_as_exception()(_command.callback)


def main() -> None:
    """Run the command line and exit with the code that `kdtool._errors` gives each error."""
    if "_KDTOOL_COMPLETE" in os.environ:  # click prints completions and exits
        cli.main(prog_name="kdtool")
    interrupt_on_stop_signals()
    for stream in (sys.stdout, sys.stderr):  # consoles of Windows may start in a code page without our characters
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    exit_with(call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code; errors are explained on standard error."""
    try:
        colour = False if os.environ.get("NO_COLOR") else None  # None: none in pipes
        result = cli.main([*arguments], prog_name="kdtool", standalone_mode=False, color=colour)
        return result if isinstance(result, int) else 0
    except BaseException as error:
        return explain(error, debug=False)
    finally:
        end_first_line()
