"""`kdtool report RUN`."""

from __future__ import annotations

import click

from kdtool._cli.options import out_option


@click.command()
@click.argument("run")
@out_option
@click.option("--use", help="Name of the reporter [default: the one of the run's recipe].")
def report(run: str, out: str, use: str | None) -> None:
    """Write the report of a finished run again.

    RUN is a name or a folder. Nothing is computed.
    """
    from kdtool._api import report as write_report

    click.echo(write_report(run, use, out=out))
