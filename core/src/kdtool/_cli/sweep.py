"""`kdtool sweep RECIPE --set KEY=VALUE,VALUE`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdtool._cli.options import pairs, recipe_argument

if TYPE_CHECKING:
    from kdtool._sweep.record import SweepResults

__all__ = ["sweep"]

_SET = """Values of a key, such as student.layers=8,12; may be given more than once, and all combinations are run. Commas in
lists and mappings do not count (seeds=[0,1] is one value), nor do those in quotes: prompt='"a, b",c' holds two texts."""


@click.command()
@recipe_argument
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE,VALUE", callback=pairs, help=_SET)
@click.option("--out", type=click.Path(file_okay=False), default="runs", show_default=True, help="Folder for runs.")
@click.option(
    "--store", type=click.Path(file_okay=False), help="Folder for what runs share [default: the user's cache]."
)
@click.option("--offline", is_flag=True, help="Use no network.")
@click.option("--plan", "only_plan", is_flag=True, help="Only say which stages of which points would run.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print sweep.json; what is said meanwhile goes to standard error."
)
@click.pass_context
def sweep(
    context: click.Context,
    recipe: str,
    settings: dict[str, str],
    out: str,
    store: str | None,
    offline: bool,
    only_plan: bool,
    as_json: bool,
) -> None:
    """Run a recipe at every point of a grid of settings, one after the other, and put the results into one table.

    The same command goes on where it stopped. A point that fails does not keep the others from running.
    """
    from kdtool import _sweep
    from kdtool._sweep.grid import split_values

    grid = {key: split_values(key, text) for key, text in settings.items()}
    if only_plan:
        for point, stages in _sweep.plan_sweep(Path(recipe), grid, out=out, store=store).items():
            click.echo(f"{point}")
            for stage in stages:
                click.echo(f"  {stage.action:<8} {stage.name}")
        return
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        found = _sweep.sweep(Path(recipe), grid, out=out, store=store, offline=offline)
    _show(found, as_json=as_json)
    context.exit(found.exit_code)


def _show(found: SweepResults, *, as_json: bool) -> None:
    from kdtool._sweep.record import JSON, MARKDOWN, as_markdown

    if as_json:
        click.echo((found.folder / JSON).read_text(encoding="utf-8"), nl=False)
    else:
        click.echo(f"\n{as_markdown(found)}\ntables: {found.folder / MARKDOWN}")
