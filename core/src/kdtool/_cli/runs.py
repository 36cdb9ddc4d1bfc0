"""`kdtool runs` and `kdtool runs rm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdtool._cli.options import json_option, out_option, store_option
from kdtool._estimate.machine import size

if TYPE_CHECKING:
    from kdtool._results.known_runs import KnownRun


class _ListByDefault(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if args and args[0] in known else ["list", *args])


@click.group(cls=_ListByDefault)
def runs() -> None:
    """List the runs, or delete some: `kdtool runs [PATTERN]` is short for `kdtool runs list [PATTERN]`."""


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

    PATTERN is a part of their names, or a pattern such as 'quick*'. A run elsewhere is listed by its folder.
    """
    from kdtool._api import runs as find_runs
    from kdtool._store.shared_store import store_folder

    found = [run for run in find_runs(pattern, out=out, store=store) if state in (None, run.state)]
    if as_json:
        plain = [{**vars(run), "folder": str(run.folder), "when": run.when.isoformat()} for run in found]
        click.echo(json.dumps(plain, indent=1))
        return
    if not found:
        which = "such " if pattern or state else ""
        click.echo(
            f"There are no {which}runs in {Path(out).absolute()}, nor any that use the store {store_folder(store)}."
        )
    names = [_label(run, Path(out)) for run in found]
    for name, run in zip(names, found, strict=True):
        about = "; ".join(text for text in (run.figure, run.outcome) if text)
        line = f"{name:<{max(map(len, names))}}  {run.state:<10}  {run.when.astimezone():%Y-%m-%d %H:%M}  {about}"
        click.echo(line.rstrip())


@runs.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@out_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(names: tuple[str, ...], out: str, yes: bool) -> None:
    """Delete the folders of runs (names or folders). What runs share stays in the store: see `kdtool clean`."""
    from kdtool._results.files import find_run
    from kdtool._results.known_runs import remove_run
    from kdtool._store.layout import GRAPH
    from kdtool._store.shared_store import bytes_below

    folders = list(dict.fromkeys(find_run(name, out, "run", [GRAPH]) for name in names))
    if not yes:
        for folder in folders:
            click.echo(f"{size(bytes_below(folder)):>9}  {folder}")
        if not click.confirm("Delete them, with all models and results in them?"):
            return
    for folder in folders:
        remove_run(folder)
        click.echo(f"deleted {folder}")


def _label(run: KnownRun, out: Path) -> str:
    """Return the text by which other commands find the run."""
    return run.name if run.folder.parent == out.resolve() else str(run.folder)
