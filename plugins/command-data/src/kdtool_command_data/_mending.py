"""The click command that mends a ledger of paid answers."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path

import click

__all__ = ["mend"]

_PICODOLLARS = 10**12
_MOST = 10**6
"""Dollars that an attempt in a ledger can have."""


def _dollars(_: click.Context, __: click.Parameter, value: str | None) -> Decimal | None:
    """Return an exact number of dollars.

    Raises:
        BadParameter: it is not one.
    """
    try:
        dollars = None if value is None else Decimal(value)
    except InvalidOperation:
        dollars = Decimal(-1)
    if dollars is not None and not 0 <= dollars <= _MOST:
        raise click.BadParameter(f"{value!r} is not a number of dollars from 0 to {_MOST:,}")
    return dollars


@click.command()
@click.argument("ledger", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--missing-usd",
    "missing",
    metavar="DOLLARS",
    callback=_dollars,
    help="Money that the ledger lacks; without it, the amount that its seal counts.",
)
def mend(ledger: Path, missing: Decimal | None) -> None:
    """Mend LEDGER, a damaged file of paid answers: keep what can be read, and count missing money against the budget.

    \b
    Example:  kdtool data mend store/answers.sqlite
    """  # noqa: D301 - click reads backspaces
    from kdtool_asking import mend_ledger

    mended = mend_ledger(ledger, None if missing is None else int(missing * _PICODOLLARS))
    if mended is None:
        click.echo(f"{ledger} is whole; nothing was changed")
        return
    click.echo(
        f"{ledger} holds {mended.answers:,} answers and {mended.attempts:,} attempts that could be read\n"
        f"missing: ${mended.missing / _PICODOLLARS:,.6f}, reserved from now on like a request without a known outcome\n"
        "answers that could not be read are asked for, and paid for, again within budget_usd"
    )
    if mended.damaged.exists():
        click.echo(f"the damaged file is kept as {mended.damaged}")
