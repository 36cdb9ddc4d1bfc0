"""`kdtool plugins` and `kdtool schema`: the installed plugins and their settings.

Listing imports no plugin; `show` imports one, `check` and `schema` all.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from textwrap import indent, shorten
from typing import TYPE_CHECKING

import click

from kdtool._cli.shared import ListByDefault, json_option
from kdtool._contract.kind_table import TABLE
from kdtool._errors import KdtoolError, UsageError
from kdtool._plugins.distributions import describe, find_misplaced, install_command, refusal
from kdtool._plugins.registry import GROUPS, Entry, entries_by_name, find, list_kinds, load_plugin
from kdtool._text.names import did_you_mean
from kdtool._text.terminal import say, style, width_of

if TYPE_CHECKING:
    from kdtool._assembly.json_schema import Setting

_NOTHING_INSTALLED = """No plugins are installed, and the core does nothing without them. For the quickstart:

    {}
"""


_kind_option = click.option("--kind", type=click.Choice(list(GROUPS)), help="Only plugins of this kind.")


@click.group(cls=ListByDefault)
def plugins() -> None:
    """List the installed plugins, show or check them.

    `kdtool plugins [WORD]` is short for `kdtool plugins list [WORD]`.
    """


@plugins.command("list")
@click.argument("word", default="")
@_kind_option
@json_option
@click.pass_context
def list_plugins(context: click.Context, word: str, kind: str | None, as_json: bool) -> None:
    """List the installed plugins by kind.

    WORD is a part of their names or descriptions. In a terminal, lines are cut to its width; `kdtool plugins show NAME` has
    the rest, and the package.
    """
    namesakes = [entries for each in GROUPS if kind in {None, each} for entries in entries_by_name(each).values()]
    commands = set(getattr(context.find_root().command, "commands", ()))
    rows = [_row(entry, commands, twice=len(entries) > 1) for entries in namesakes for entry in entries]
    rows = [row for row in rows if word.lower() in f"{row['name']} {row['summary']}".lower()]
    for trouble in find_misplaced(GROUPS.values()):
        say(f"note: {trouble}", err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    limit = width_of(sys.stdout)
    width = max((len(row["name"]) for row in rows), default=0)
    for each, count in Counter(row["kind"] for row in rows).items():
        say(style(f"{each} ({count})", bold=True))
        for row in (row for row in rows if row["kind"] == each):
            room = max(20, limit - width - 4) if limit else len(row["summary"]) + 1
            say(f"  {row['name']:<{width}}  {shorten(row['summary'], room, placeholder=' …', break_on_hyphens=False)}")
    if not rows:
        which = f" of the kind {kind}" * bool(kind) + f" with {word!r} in name or description" * bool(word)
        nothing = f"No plugins{which} are installed."
        say(nothing if which else _NOTHING_INSTALLED.format(install_command("kdtool[quickstart]")))


def _row(entry: Entry, commands: Collection[str], *, twice: bool) -> dict[str, str]:
    dist = entry.point.dist
    summary = (refusal(dist) if dist else "") or describe(entry.kind, entry.name, dist)
    hidden = "not used, kdtool has a command of this name; " * (entry.kind == "command" and entry.name in commands)
    return {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "summary": f"offered twice; {summary}" if twice else f"{hidden}{summary}",
    }


@plugins.command()
@click.pass_context
def check(context: click.Context) -> None:
    """Import every plugin, and name failures. Exit code 1 after one."""
    from kdtool._assembly.json_schema import class_and_settings

    failed, count = 0, 0
    for kind in list_kinds():
        for name in entries_by_name(kind):
            count += 1
            try:
                if kind in GROUPS and kind != "command":
                    class_and_settings(kind, name)
                else:
                    load_plugin(kind, name)
            except KdtoolError as error:
                failed += 1
                say(str(error))
    say(f"{failed} of {count} plugins cannot be used" if failed else f"all {count} plugins can be used")
    context.exit(int(failed > 0))


@plugins.command()
@click.argument("name")
@click.option("--kind", help="The kind, where several have a plugin of this name.")
def show(name: str, kind: str | None) -> None:
    """Show purpose and settings of a plugin. Its origin and a line for a recipe, too."""
    from inspect import getdoc

    from kdtool._assembly.json_schema import class_and_settings, settings_in

    for each in _kinds_of(name, kind):
        entry = find(each, name)
        cls, schema = class_and_settings(each, name)
        settings = list(settings_in(schema))
        say(f"{each} {name} ({entry.distribution} {entry.version}, {entry.value})\n")
        say(_paragraphs(getdoc(cls) or "", "  ") + "\n")
        for setting in settings:
            say(f"  {setting.key}: {setting.type} {f'= {setting.default}' if setting.default else '(required)'}")
            if setting.about:
                say(_paragraphs(setting.about, "      "))
        say("\n" * bool(settings) + f"  {_recipe_line(each, name, settings)}")


def _paragraphs(text: str, before: str) -> str:
    """Return text with each paragraph in a line, which `say` wraps; lists, tables and code keep their lines."""
    return indent(re.sub(r"(?<=\S)\n(?=[^\s|*-])", " ", text), before)


def _recipe_line(kind: str, name: str, settings: Sequence[Setting]) -> str:
    """Return a line for a recipe, with the settings that it must have."""
    known = next(each for each in TABLE if each.name == kind)
    required = ", ".join(f"{one.key}: …" for one in settings if not one.default and "." not in one.key)
    entry = f"{{use: {name}, {required}}}" if required else name
    under = ", below train" if known.scope == "phase" and not known.single else ""
    if known.single or kind in {"corpus", "teacher"}:
        return f"in a recipe{under}:  {known.key if known.single else kind}: {entry}"
    return f"in a recipe{under}:  {known.key}: {{{name}: {{{required}}}}}"


def _kinds_of(name: str, kind: str | None) -> list[str]:
    """Return the kinds of component that have a plugin of this name; only `kind` if it is given."""
    kinds = [each for each in GROUPS if name in entries_by_name(each)]
    if not kinds:
        known = {other for each in GROUPS for other in entries_by_name(each)}
        raise UsageError(f"no plugin is called {name!r}; {did_you_mean(name, known, what='installed')}")
    if kinds == ["command"]:
        raise UsageError(f"{name!r} is a command, not a component; see: kdtool {name} --help")
    wanted = [each for each in kinds if each != "command" and kind in {None, each}]
    if not wanted:
        raise UsageError(f"{name!r} is of the kind {' and '.join(kinds)}, not {kind}")
    return wanted


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    It covers the installed plugins. In an editor with a YAML language server, put this first in a recipe, after `kdtool
    schema > kdtool.schema.json`:

        # yaml-language-server: $schema=kdtool.schema.json
    """
    from kdtool._assembly.json_schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=1))
