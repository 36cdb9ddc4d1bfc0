"""`kdtool sweep RECIPE --grid 'KEY=[VALUE, VALUE]'`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kdtool_essentials.sweep.results import SweepResults

_GRID = """Values that a key takes in turn: a YAML list such as 'student.layers=[8, 12]', or a scalar for one value. Repeat
the option to run all combinations. A value that is itself a list is written in a list: 'seeds=[[0, 1], [2, 3]]'."""


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        key, sign, text = value.partition("=")
        if not sign or not key.strip():
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        if key.strip() in pairs:
            raise click.BadParameter(f"{key.strip()!r} is given twice")
        pairs[key.strip()] = text
    return pairs


@click.command()
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--grid", "values", multiple=True, metavar="KEY=[VALUE, VALUE]", callback=_pairs, help=_GRID)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", callback=_pairs,
    help="Change a key of the recipe at all points, as in kdtool run; may be given more than once.",
)  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False), default="runs", show_default=True, help="Folder for runs.")
@click.option(
    "--store", type=click.Path(file_okay=False), help="Folder for what runs share [default: the user's cache]."
)
@click.option("--offline", is_flag=True, help="Use no network.")
@click.option("--plan", "only_plan", is_flag=True, help="Only print which stages of which points would run.")
@click.option("--json", "as_json", is_flag=True, help="Print sweep.json; messages go to standard error.")
@click.pass_context
def sweep(
    context: click.Context,
    recipe: str,
    values: dict[str, str],
    settings: dict[str, str],
    out: str,
    store: str | None,
    offline: bool,
    only_plan: bool,
    as_json: bool,
) -> None:
    """Run a recipe at every point of a grid of settings.

    The points run one after the other, and one table shows their results. The same command resumes where it stopped. A
    point that fails does not stop the others.
    """
    from kdtool_essentials.sweep import plan_sweep, sweep
    from kdtool_essentials.sweep.points import read_values

    grid = {key: read_values(key, text) for key, text in values.items()}
    if only_plan:
        for point, stages in plan_sweep(Path(recipe), grid, settings, out=out, store=store).items():
            click.echo(f"{point}")
            for stage in stages:
                click.echo(f"  {stage.action:<8} {stage.title}")
        return
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        results = sweep(Path(recipe), grid, settings, out=out, store=store, offline=offline)
    _show(results, as_json=as_json)
    context.exit(results.exit_code)


def _show(results: SweepResults, *, as_json: bool) -> None:
    from kdtool_essentials.sweep.files import HTML, JSON, as_markdown

    if as_json:
        click.echo((results.folder / JSON).read_text(encoding="utf-8"), nl=False)
    else:
        click.echo(f"\n{as_markdown(results)}\ntables: {results.folder / HTML}")
