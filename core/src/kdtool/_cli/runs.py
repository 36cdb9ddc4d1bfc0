"""`kdtool runs`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kdtool._cli.options import json_option, out_option, store_option
from kdtool._estimate.machine import size


@click.command()
@out_option
@store_option
@json_option
def runs(out: str, store: str | None, as_json: bool) -> None:
    """List the runs in the folder for runs, and those elsewhere that use the same store."""
    from kdtool._store.known_runs import list_runs
    from kdtool._store.shared_store import store_folder

    found = list_runs(store_folder(store), Path(out))
    if as_json:
        plain = [{**vars(run), "folder": str(run.folder), "when": run.when.isoformat()} for run in found]
        click.echo(json.dumps(plain, indent=1))
        return
    if not found:
        click.echo(f"There are no runs in {Path(out).absolute()}, nor any that use the store {store_folder(store)}.")
    for run in found:
        when = f"{run.when.astimezone():%Y-%m-%d %H:%M}"
        click.echo(f"{run.name:<20} {run.state:<10} {when}  {size(run.bytes):>9}  {run.folder}")
        if run.verdict:
            click.echo(f"    {run.verdict}")
