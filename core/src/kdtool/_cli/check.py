"""`kdtool check RECIPE`: everything that can be known before weights load or anything is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kdtool._cli.options import recipe_argument, set_option

__all__ = ["check"]


@click.command()
@recipe_argument
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def check(recipe: str, settings: dict[str, str], as_json: bool) -> None:
    """Check a recipe: everything that can be known before weights load."""
    from pydantic import TypeAdapter

    from kdtool._api import check as check_recipe
    from kdtool._licences import Licensed, told
    from kdtool._run.vocabularies import noted
    from kdtool._vocabulary import Vocabularies

    found = check_recipe(Path(recipe), settings)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"{recipe} is fine: {len(found['components'])} components, arms {', '.join(found['arms'])}")
    for component in found["components"]:
        click.echo(
            f"  {component['name']:<28} {component['use']:<18} {component['distribution']} {component['version']}".rstrip()
        )
    for name, facts in found["models"].items():
        shape = f"{facts['layers']} layers, width {facts['hidden']}, vocabulary {facts['vocabulary']:,}"
        click.echo(f"model {name}: {facts['parameters']:,} parameters, {shape}")
    for line in told(TypeAdapter(tuple[Licensed, ...]).validate_python(found["licences"]), found["name"]):
        click.echo(line)
    verdicts = TypeAdapter(dict[str, Vocabularies | None]).validate_python(found["vocabularies"])
    for line in noted(verdicts):
        click.echo(line)
    for estimate in found["estimates"]:
        if estimate["download_bytes"]:
            click.echo(f"will download {estimate['download_bytes'] / 1e6:,.0f} MB: {estimate['part']}")
