"""`kdtool schema`."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    It covers the installed plugins. In an editor with a YAML language server, put this first in a recipe, after `kdtool
    schema > kdtool.schema.json`:

        # yaml-language-server: $schema=kdtool.schema.json
    """
    from kdtool._assembly.json_schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=1))
