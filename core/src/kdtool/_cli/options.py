"""Arguments and options that several commands share."""

from __future__ import annotations

import click

__all__ = ["json_option", "offline_option", "out_option", "pairs", "recipe_argument", "set_option", "store_option"]


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


_FOLDER = click.Path(file_okay=False)
_SET = "Change a key of the recipe, such as train.steps=100; may be given more than once."
_STORE = "Folder for what runs share [default: the user's cache]."

recipe_argument = click.argument("recipe", type=click.Path(dir_okay=False))
set_option = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", callback=pairs, help=_SET)
out_option = click.option("--out", type=_FOLDER, default="runs", show_default=True, help="Folder for runs.")
store_option = click.option("--store", type=_FOLDER, help=_STORE)
offline_option = click.option("--offline", is_flag=True, help="Use no network.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print for machines.")
