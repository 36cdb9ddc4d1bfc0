"""`kdtool report RUN`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--use", help="Name of the reporter [default: the one of the run's recipe].")
def report(folder: str, use: str | None) -> None:
    """Write the report of a finished run (its FOLDER) again, without computing anything."""
    from kdtool._api import report as write_report

    click.echo(write_report(Path(folder), use))
