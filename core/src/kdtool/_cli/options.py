"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from typing import Any

import click

from kdtool._text.did_you_mean import did_you_mean


def read_pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the settings in `KEY=VALUE` arguments."""
    settings: dict[str, str] = {}
    for value in values:
        key, sign, text = value.partition("=")
        key = key.strip()
        if not sign or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        if key in settings:
            raise click.BadParameter(f"{key!r} is given twice")
        settings[key] = text
    return settings


class FolderPath(click.Path):
    """A folder that exists or can be made: neither a file nor a device such as /dev/null."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or fail."""
        if os.path.exists(value) and not os.path.isdir(value):  # noqa: PTH110, PTH112 - unlike Path's, never raise
            self.fail(f"{value!r} is not a folder; name one, or a path where one can be made", param, ctx)
        return super().convert(value, param, ctx)


_FOLDER = FolderPath()
_SET = "Change a key of the recipe, such as train.steps=100; may be given more than once."
_STORE = "Folder for what runs share [default: the user's cache]."

recipe_argument = click.argument("recipe", type=click.Path(dir_okay=False))
set_option = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", callback=read_pairs, help=_SET)
out_option = click.option("--out", type=_FOLDER, default="runs", show_default=True, help="Folder for runs.")
store_option = click.option("--store", type=_FOLDER, help=_STORE)
offline_option = click.option("--offline", is_flag=True, help="Use no network.")
no_sandbox_option = click.option(
    "--no-sandbox", is_flag=True, help="Leave out evaluators that run generated programs, and what compares with them."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class ListByDefault(click.Group):
    """A group whose command is `list` unless another one is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, those of `list` if they name no command."""
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if args and args[0] in known else ["list", *args])


class KindOption(click.Choice):  # type: ignore[type-arg]  # click 8.1 has no argument
    """Names of kinds; for another word it suggests one of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a kind, or fail."""
        if value not in self.choices:
            hint = did_you_mean(value, self.choices, what="there are", shown=20)
            self.fail(f"unknown kind {value!r}; {hint}", param, ctx)
        return super().convert(value, param, ctx)
