"""Options that several commands share: the recipe and `--set`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["pairs", "recipe_argument", "set_option"]

F = TypeVar("F", bound=Callable[..., Any])


def recipe_argument(command: F) -> F:
    """Add the RECIPE argument."""
    return click.argument("recipe", type=click.Path(dir_okay=False))(command)


def set_option(command: F) -> F:
    """Add `--set KEY=VALUE`, gathered into a mapping of key paths to text."""
    text = "Change a key of the recipe, such as train.steps=100; may be given more than once."
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", callback=pairs, help=text)(command)


def pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Gather `KEY=VALUE` texts: the callback of an option that may be given more than once."""
    settings: dict[str, str] = {}
    for value in values:
        key, sign, text = value.partition("=")
        if not sign or not key.strip():
            raise click.BadParameter(f"{value!r} is no KEY=VALUE")
        if key.strip() in settings:
            raise click.BadParameter(f"{key.strip()!r} is given twice")
        settings[key.strip()] = text
    return settings
