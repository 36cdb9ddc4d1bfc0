"""`kdtool plugins`: the installed plugins, without importing any; `plugins show` imports the one that is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kdtool._cli.options import json_option

if TYPE_CHECKING:
    from kdtool._plugins.registry import Entry

__all__ = ["NOTHING_INSTALLED", "plugins"]

NOTHING_INSTALLED = """No plugins are installed: the core alone can do nothing. What the quickstart needs:

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
    from kdtool._plugins.distributions import find_misplaced
    from kdtool._plugins.registry import GROUPS, entries_by_name

    rows = [
        _row(entry, twice=len(entries) > 1)
        for kind in GROUPS
        for entries in entries_by_name(kind).values()
        for entry in entries
    ]
    for trouble in find_misplaced(GROUPS.values()):
        click.echo(f"note: {trouble}", err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo(NOTHING_INSTALLED)
        return
    widths = {key: max(len(row[key]) for row in rows) for key in ("kind", "name")}
    for row in rows:
        name = f"{row['kind']:<{widths['kind']}}  {row['name']:<{widths['name']}}"
        click.echo(f"{name}  {row['version']:<8} {row['summary']}")


def _row(entry: Entry, *, twice: bool) -> dict[str, str]:
    from kdtool._plugins.distributions import contracts_of, origin_of, refusal
    from kdtool._plugins.sentences import sentence_of

    dist = entry.point.dist
    contracts = ",".join(map(str, sorted(contracts_of(dist)))) if dist else ""
    summary = (refusal(dist) if dist else "") or sentence_of(entry.value) or origin_of(dist).summary
    return {
        "kind": entry.kind,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "contract": contracts,
        "summary": f"offered twice; {summary}" if twice else summary,
    }


@plugins.command()
@click.argument("name")
@click.option("--kind", help="Which kind, where a name stands for several.")
def show(name: str, kind: str | None) -> None:
    """Show a plugin: what it does, where it comes from, and its settings."""
    from inspect import cleandoc, getdoc
    from textwrap import indent

    from kdtool._assembly.json_schema import class_and_settings
    from kdtool._errors import UsageError
    from kdtool._plugins.registry import GROUPS, entries_by_name, find
    from kdtool._text.did_you_mean import did_you_mean

    there = [each for each in GROUPS if name in entries_by_name(each)]
    kinds = [each for each in there if each != "command" and kind in {None, each}]
    if there == ["command"]:
        raise UsageError(f"{name!r} is a command: kdtool {name} --help says what it does")
    if there and not kinds:
        raise UsageError(f"{name!r} is of the kind {' and '.join(there)}, not {kind}")
    if not kinds:
        known = {found for each in GROUPS for found in entries_by_name(each)}
        raise UsageError(f"no plugin is called {name!r}; {did_you_mean(name, known, what='installed')}")
    for each in kinds:
        entry = find(each, name)
        cls, schema = class_and_settings(each, name)
        click.echo(f"{each} {name} ({entry.distribution} {entry.version}, {entry.value})\n")
        click.echo(indent(getdoc(cls) or "", "  ") + "\n")
        for field, about in schema.get("properties", {}).items():
            click.echo(f"  {field}: {_type(about)}{_default(field, about, schema)}")
            if about.get("description"):
                click.echo(indent(cleandoc(str(about["description"])), "      "))


def _type(about: dict[str, Any]) -> str:
    if "enum" in about:
        return " | ".join(map(str, about["enum"]))
    if "anyOf" in about:
        return " | ".join(_type(option) for option in about["anyOf"])
    return str(about.get("type", about.get("$ref", "").rpartition("/")[2]))


def _default(field: str, about: dict[str, Any], schema: dict[str, Any]) -> str:
    return " (required)" if field in schema.get("required", []) else f" = {json.dumps(about.get('default'))}"
