"""`kdtool plugins`: the installed plugins, without importing any; `plugins show` imports the one that is shown."""

from __future__ import annotations

import json
from typing import Any

import click

from kdtool._cli.options import json_option
from kdtool._errors import UsageError
from kdtool._plugins.distributions import contracts_of, find_misplaced, origin_of, refusal
from kdtool._plugins.registry import GROUPS, Entry, entries_by_name, find
from kdtool._plugins.sentences import sentence_of
from kdtool._text.did_you_mean import did_you_mean

_NOTHING_INSTALLED = """No plugins are installed: the core alone can do nothing. For the quickstart:

    pip install kdtool-quickstart
"""


@click.group(invoke_without_command=True)
@click.pass_context
def plugins(context: click.Context) -> None:
    """List the installed plugins, or show one with its settings."""
    if context.invoked_subcommand is None:
        context.invoke(list_plugins)


@plugins.command("list")
@json_option
def list_plugins(as_json: bool = False) -> None:
    """List the installed plugins by kind."""
    found = [entries for kind in GROUPS for entries in entries_by_name(kind).values()]
    rows = [_row(entry, twice=len(entries) > 1) for entries in found for entry in entries]
    for trouble in find_misplaced(GROUPS.values()):
        click.echo(f"note: {trouble}", err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['kind']:<9}  {row['name']:<{width}}  {row['version']:<8} {row['summary']}")
    if not rows:
        click.echo(_NOTHING_INSTALLED)


def _row(entry: Entry, *, twice: bool) -> dict[str, str]:
    dist = entry.point.dist
    summary = (refusal(dist) if dist else "") or sentence_of(entry.value) or origin_of(dist).summary
    return {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "contract": ",".join(map(str, sorted(contracts_of(dist)))) if dist else "",
        "summary": f"offered twice; {summary}" if twice else summary,
    }


@plugins.command()
@click.argument("name")
@click.option("--kind", help="The kind, where several have a plugin of this name.")
def show(name: str, kind: str | None) -> None:
    """Show a plugin: its purpose, origin and settings."""
    from inspect import cleandoc, getdoc
    from textwrap import indent

    from kdtool._assembly.json_schema import class_and_settings

    for each in _kinds_of(name, kind):
        entry = find(each, name)
        cls, schema = class_and_settings(each, name)
        click.echo(f"{each} {name} ({entry.distribution} {entry.version}, {entry.value})\n")
        click.echo(indent(getdoc(cls) or "", "  ") + "\n")
        for field, about in schema.get("properties", {}).items():
            default = "(required)" if field in schema.get("required", []) else f"= {json.dumps(about.get('default'))}"
            click.echo(f"  {field}: {_type(about)} {default}")
            if about.get("description"):
                click.echo(indent(cleandoc(str(about["description"])), "      "))


def _kinds_of(name: str, kind: str | None) -> list[str]:
    """Return the kinds of component that have a plugin of this name; `kind` alone where it is given."""
    found = [each for each in GROUPS if name in entries_by_name(each)]
    if not found:
        known = {other for each in GROUPS for other in entries_by_name(each)}
        raise UsageError(f"no plugin is called {name!r}; {did_you_mean(name, known, what='installed')}")
    if found == ["command"]:
        raise UsageError(f"{name!r} is a command, not a component; see: kdtool {name} --help")
    wanted = [each for each in found if each != "command" and kind in {None, each}]
    if not wanted:
        raise UsageError(f"{name!r} is of the kind {' and '.join(found)}, not {kind}")
    return wanted


def _type(about: dict[str, Any]) -> str:
    if "enum" in about:
        return " | ".join(map(str, about["enum"]))
    if "anyOf" in about:
        return " | ".join(map(_type, about["anyOf"]))
    return str(about.get("type", about.get("$ref", "").rpartition("/")[2]))
