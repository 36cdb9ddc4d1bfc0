"""`kdtool runs` and `kdtool runs rm`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kdtool._cli.options import json_option, out_option, store_option
from kdtool._estimate.machine import size


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

    PATTERN is a part of their names, or a pattern such as 'quick*'. Other commands find a run elsewhere by its folder.
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
    width = max((len(run.name) for run in found), default=0)
    for run in found:
        elsewhere = "" if run.folder.parent == Path(out).resolve() else f"in {run.folder}"
        about = "; ".join(filter(None, (run.figure, run.outcome, elsewhere)))
        click.echo(f"{run.name:<{width}}  {run.state:<10}  {run.when.astimezone():%Y-%m-%d %H:%M}  {about}".rstrip())


@runs.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@out_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(names: tuple[str, ...], out: str, yes: bool) -> None:
    """Delete the folders of runs (names or folders). The store is left as it is: see `kdtool clean`."""
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
