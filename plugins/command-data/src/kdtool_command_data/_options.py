"""Options that the commands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["set_option", "store_option"]


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the values of `--set KEY=VALUE` by key.

    Raises:
        BadParameter: one is not of that form.
    """
    pairs = [value.partition("=") for value in values]
    for key, sign, _text in pairs:
        if not sign or not key.strip():
            raise click.BadParameter(f"{key!r} is not of the form KEY=VALUE")
    return {key.strip(): text for key, _, text in pairs}


set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_pairs,
    help="Change a key of the recipe, as in kdtool run.",
)
store_option = click.option(
    "--store", type=click.Path(file_okay=False, path_type=Path), help="Folder shared by runs, as in kdtool run."
)
