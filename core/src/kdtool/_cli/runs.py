"""`kdtool runs`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdtool._cli.options import json_option, out_option, store_option
from kdtool._cli.table import table
from kdtool._text.figures import duration

if TYPE_CHECKING:
    from kdtool._results.known_runs import KnownRun


@click.command("runs")
@click.argument("pattern", default="")
@out_option
@store_option
@json_option
def list_runs(pattern: str, out: str, store: str | None, as_json: bool) -> None:
    """List the runs in the folder for runs, and those elsewhere that use the same store, the latest first.

    PATTERN is a part of their names, or a pattern such as 'quick*'. Other commands accept the names as listed, such as
    'quickstart-sweep/layers-8'; they find a run elsewhere by its folder.
    """
    from kdtool._api import runs as find_runs
    from kdtool._store.shared_store import store_folder

    listed = find_runs(pattern, out=out, store=store)
    if as_json:
        plain = [{**vars(run), "folder": str(run.folder), "when": run.when.isoformat()} for run in listed]
        click.echo(json.dumps(plain, indent=1))
        return
    if not listed:
        which = "such " if pattern else ""
        click.echo(
            f"There are no {which}runs in {Path(out).absolute()}, nor any that use the store {store_folder(store)}."
        )
    else:
        now = datetime.now(UTC)
        rows = [
            [run.name, run.state, duration((now - run.when).total_seconds()), run.figure, _note(run, Path(out))]
            for run in listed
        ]
        click.echo(table(["name", "state", "age", "main result", ""], rows))


def _note(run: KnownRun, out: Path) -> str:
    """Return the outcome, the worker or the damage, and the folder if it is elsewhere."""
    elsewhere = "" if out.resolve() in run.folder.parents else f"in {run.folder}"
    return "; ".join(filter(None, (run.outcome, elsewhere)))
