"""Options that the commands share."""

from __future__ import annotations

import click

__all__ = ["pairs"]


def pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the values of `--set KEY=VALUE` by key.

    Raises:
        BadParameter: one is not of that form.
    """
    found = [value.partition("=") for value in values]
    for key, sign, _text in found:
        if not sign or not key.strip():
            raise click.BadParameter(f"{key!r} is not of the form KEY=VALUE")
    return {key.strip(): text for key, _, text in found}
