"""`kdtool plugins`: what is installed, from package metadata alone; `plugins show` imports the one that is shown."""

from __future__ import annotations

import json
from typing import Any

import click

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
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def list_plugins(as_json: bool = False) -> None:
    """List the installed plugins by kind."""
    from importlib.metadata import distribution

    from kdtool._compatibility import contracts_of, refusal
    from kdtool._registry import GROUPS, installed

    rows: list[dict[str, str]] = []
    for kind in GROUPS:
        for name, entries in installed(kind).items():
            for entry in entries:
                found = distribution(entry.distribution)
                text = found.metadata["Summary"] or ""
                summary = f"offered twice; {text}" if len(entries) > 1 else refusal(found) or text
                origin = {"distribution": entry.distribution, "version": entry.version}
                contracts = ",".join(map(str, sorted(contracts_of(found))))
                rows.append({"kind": kind, "name": name, **origin, "contract": contracts, "summary": summary})
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


@plugins.command()
@click.argument("name")
@click.option("--kind", help="Which kind, where a name stands for several.")
def show(name: str, kind: str | None) -> None:
    """Show a plugin: what it does, where it comes from, and its settings."""
    from inspect import cleandoc, getdoc
    from pathlib import Path
    from textwrap import indent

    from kdtool._errors import UsageError
    from kdtool._registry import GROUPS, find, installed, load
    from kdtool._suggest import did_you_mean

    kinds = [each for each in GROUPS if name in installed(each) and each != "command" and kind in {None, each}]
    if not kinds:
        known = {found for each in GROUPS for found in installed(each)}
        raise UsageError(f"no plugin is called {name!r}; {did_you_mean(name, known, what='installed')}")
    for each in kinds:
        entry, cls = find(each, name), load(each, name, Path.cwd(), click.echo).cls
        click.echo(f"{each} {name} ({entry.distribution} {entry.version}, {entry.value})\n")
        click.echo(indent(getdoc(cls) or "", "  ") + "\n")
        schema = cls.Config.model_json_schema()
        for field, about in schema.get("properties", {}).items():
            click.echo(f"  {field}: {_type(about)}{_default(field, about, schema)}")
            if about.get("description"):
                click.echo(indent(cleandoc(about["description"]), "      "))


def _type(about: dict[str, Any]) -> str:
    if "enum" in about:
        return " | ".join(map(str, about["enum"]))
    if "anyOf" in about:
        return " | ".join(_type(option) for option in about["anyOf"])
    return str(about.get("type", about.get("$ref", "").rpartition("/")[2]))


def _default(field: str, about: dict[str, Any], schema: dict[str, Any]) -> str:
    return " (required)" if field in schema.get("required", []) else f" = {json.dumps(about.get('default'))}"
