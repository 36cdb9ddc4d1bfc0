"""The command line: a lazy click group, which imports no command before it is used.

Errors become sentences and exit codes; `kdtool --debug …` shows the traceback as well. Each command lives in a module of its
own; plugins add commands through the entry-point group `kdtool.commands`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from kdtool._cli.failure import explain
from kdtool._cli.leaving import leave, stoppable

__all__ = ["call", "cli", "main"]

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("kdtool._cli.run:run", "Run a recipe, from data to report; a second call goes on where the first stopped."),
    "eval": (
        "kdtool._cli.eval:evaluate",
        "Measure models that are there already, and compare them; nothing is trained.",
    ),
    "compare": ("kdtool._cli.compare:compare", "Put finished runs side by side, with intervals of what differs."),
    "check": ("kdtool._cli.check:check", "Check a recipe: everything that can be known before weights load."),
    "plugins": ("kdtool._cli.plugins:plugins", "List the installed plugins, or show one with its settings."),
    "schema": ("kdtool._cli.schema:schema", "Print the JSON Schema of recipes, for your editor."),
    "report": ("kdtool._cli.report:report", "Write the report of a finished run again."),
    "runs": ("kdtool._cli.runs:runs", "List runs: what is done, what is not, and what came out."),
    "clean": ("kdtool._cli.clean:clean", "Show or free what no run needs in the folder that runs share."),
}


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used; help lines come from the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *_plugin_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module, _, name = _COMMANDS[cmd_name][0].partition(":")
            command: click.Command = getattr(import_module(module), name)
            return command
        return _plugin_command(cmd_name) if cmd_name in _plugin_commands() else None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BaseException as error:  # not left to click, which takes a plugin's EOFError for Ctrl-C
            if isinstance(error, SystemExit) and ctx.invoked_subcommand not in _COMMANDS:
                ctx.exit(error.code if isinstance(error.code, int) else int(error.code is not None))
            ctx.exit(explain(error, debug=bool(ctx.obj)))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.list_commands(ctx):
            from kdtool._plugins.registry import package_of
            from kdtool._text.did_you_mean import did_you_mean

            package = package_of("command", args[0])
            near = did_you_mean(args[0], self.list_commands(ctx), what="commands")
            hint = f"get it with: pip install {package}" if package else near
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in _COMMANDS.items()]
        rows += [(name, _summary(entries[0])) for name, entries in _plugin_commands().items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugin_commands() -> dict[str, Any]:
    from kdtool._plugins.registry import entries_by_name

    return entries_by_name("command")


def _summary(entry: Any) -> str:
    """Say what a plugin's command does in its distribution's own words: help imports no plugin."""
    from kdtool._plugins.distributions import origin_of

    text = origin_of(entry.point.dist).summary
    return f"{text} ({entry.distribution})" if text else f"(from {entry.distribution})"


def _plugin_command(name: str) -> click.Command:
    from kdtool._errors import PluginError
    from kdtool._plugins.importing import import_point
    from kdtool._plugins.registry import find

    entry = find("command", name)
    loaded, _ = import_point("command", name, entry.point)
    if not isinstance(loaded, click.Command):
        owner = f"{entry.distribution} {entry.version}"
        raise PluginError(f"command {name!r} of {owner} is no click command but {type(loaded).__name__}")
    return loaded


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"kdtool {version('kdtool')}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks; also an option of each of kdtool's own commands.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
def cli(debug: bool) -> None:  # read by main from the command line
    """Distil large code models into small ones, with plugins for every part.

    A first run:  kdtool run recipes/quickstart.yaml
    """


def main() -> None:
    """Run the command line and exit with the code that `kdtool._errors` gives each error."""
    stoppable()
    _write_utf8()
    leave(call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int:
    """Run one command; return the exit code, and say what went wrong on standard error."""
    given, debug = _without_debug(arguments)
    try:
        result = cli.main(given, prog_name="kdtool", standalone_mode=False, obj=debug)
        return result if isinstance(result, int) else 0
    except BaseException as error:
        return explain(error, debug=debug)


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Return the arguments without kdtool's own `--debug`, and whether it was there.

    It stands before the command, or among the options of one of kdtool's own commands; a plugin's command may have its own.
    """
    command = next((index for index, text in enumerate(arguments) if not text.startswith("-")), len(arguments))
    options = list(arguments).index("--") if "--" in arguments else len(arguments)
    ours = command == len(arguments) or arguments[command] in _COMMANDS
    reach = options if ours else command
    taken = [text for text in arguments[:reach] if text != "--debug"]
    return [*taken, *arguments[reach:]], len(taken) < reach


def _write_utf8() -> None:
    """Windows consoles may start in a code page that cannot show our text."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")
