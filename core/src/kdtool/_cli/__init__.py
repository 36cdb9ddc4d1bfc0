"""The command line: a lazy click group. `kdtool --help` imports click and nothing of ours beyond this module.

`main` turns errors into sentences and exit codes; `--debug` shows the traceback as well. Each command lives in a module
of its own; plugins add commands through the entry-point group `kdtool.commands`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

__all__ = ["cli", "main"]

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("kdtool._cli.run:run", "Run a recipe, from data to report; a second call goes on where the first stopped."),
    "check": ("kdtool._cli.check:check", "Check a recipe: everything that can be known before weights load."),
    "plugins": ("kdtool._cli.plugins:plugins", "List the installed plugins, or show one with its settings."),
    "schema": ("kdtool._cli.schema:schema", "Print the JSON Schema of recipes, for your editor."),
    "report": ("kdtool._cli.report:report", "Write the report of a finished run again."),
    "runs": ("kdtool._cli.runs:runs", "List runs: what is done, what is not, and what came out."),
    "clean": ("kdtool._cli.clean:clean", "Show or free what no run needs in the folder that runs share."),
}
INTERRUPTED = 130


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used; help lines come from the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *_plugin_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module, _, name = _COMMANDS[cmd_name][0].partition(":")
            command: click.Command = getattr(import_module(module), name)
            return command
        if cmd_name in _plugin_commands():
            from kdtool._registry import find

            loaded: click.Command = find("command", cmd_name).point.load()
            return loaded
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.list_commands(ctx):
            from kdtool._suggest import did_you_mean

            hint = did_you_mean(args[0], self.list_commands(ctx), what="commands")
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in _COMMANDS.items()]
        rows += [(name, _summary(entries[0])) for name, entries in _plugin_commands().items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _plugin_commands() -> dict[str, Any]:
    from kdtool._registry import installed

    return installed("command")


def _summary(entry: Any) -> str:
    """Say what a plugin's command does in its distribution's own words: help imports no plugin."""
    text = entry.point.dist.metadata["Summary"] if entry.point.dist else ""
    return f"{text} ({entry.distribution})" if text else f"(from {entry.distribution})"


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"kdtool {version('kdtool')}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
def cli(debug: bool) -> None:  # read by main from the command line
    """Distil large code models into small ones, with plugins for every part.

    A first run:  kdtool run recipes/quickstart.yaml
    """


def main() -> None:
    """Run the command line and exit with the code that `kdtool._errors` gives each error."""
    _write_utf8()
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        cli.main(arguments, prog_name="kdtool", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted; what is finished is kept, and the same command goes on from there", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        from kdtool._cli.failure import explain

        sys.exit(explain(error))


def _write_utf8() -> None:
    """Windows consoles may start in a code page that cannot show our text."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")
