"""`kdtool runs` and `kdtool runs rm`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdtool._cli.options import ListByDefault, json_option, out_option, store_option
from kdtool._cli.table import table
from kdtool._estimate.machine import size
from kdtool._text.figures import duration

if TYPE_CHECKING:
    from kdtool._results.known_runs import KnownRun


@click.group(cls=ListByDefault)
def runs() -> None:
    """List the runs, or delete some.

    `kdtool runs [PATTERN]` is short for `kdtool runs list [PATTERN]`.
    """


@runs.command("list")
@click.argument("pattern", default="")
@click.option(
    "--state", type=click.Choice(["running", "done", "unfinished", "damaged"]), help="Only runs in this state."
)
@out_option
@store_option
@json_option
def list_runs(pattern: str, state: str | None, out: str, store: str | None, as_json: bool) -> None:
    """List the runs in the folder for runs, and those elsewhere that use the same store, the latest first.

    PATTERN is a part of their names, or a pattern such as 'quick*'. Other commands accept the names as listed, such as
    'quickstart-sweep/layers-8'; they find a run elsewhere by its folder.
    """
    from kdtool._api import runs as find_runs
    from kdtool._store.shared_store import store_folder

    listed = [run for run in find_runs(pattern, out=out, store=store) if state in (None, run.state)]
    if as_json:
        plain = [{**vars(run), "folder": str(run.folder), "when": run.when.isoformat()} for run in listed]
        click.echo(json.dumps(plain, indent=1))
        return
    if not listed:
        which = "such " if pattern or state else ""
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


@runs.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@out_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(names: tuple[str, ...], out: str, yes: bool) -> None:
    """Delete the folders of runs (names or folders, such as runs/l-*); of a link only the link.

    A sweep's folder is deleted with all its runs. The store is left as it is: see `kdtool clean`.
    """
    from kdtool._results.known_runs import remove_run, runs_in, select_run
    from kdtool._store.shared_store import bytes_below

    folders = list(dict.fromkeys(select_run(name, Path(out)) for name in names))
    if not yes:
        for folder in folders:
            inside = "" if folder.is_symlink() else ", ".join(run.name for run in runs_in(folder))
            click.echo(f"{size(bytes_below(folder)):>9}  {folder}{inside and f' (runs: {inside})'}")
        if not click.confirm("Delete them, with all models and results in them?"):
            return
    for folder in folders:
        kept = f", a link; the run in {folder.resolve()} is kept" if folder.is_symlink() else ""
        remove_run(folder)
        click.echo(f"deleted {folder}{kept}")
