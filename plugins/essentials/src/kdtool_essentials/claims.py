"""`kdtool claims`: the published figures in a recipe, next to those of a run. The report has the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import kdtool
from kdtool._text.terminal import figure


def compare_claims(recipe: Mapping[str, Any], values: Sequence[kdtool.ArmValue]) -> Iterator[list[str]]:
    """Yield a row for each claim of a recipe: what it is about, its figure, the run's with an interval, outcome, source."""
    by_name = {(value.measurement, value.arm): value for value in values}
    for claim in recipe.get("claims") or ():
        claimed, arm = float(claim["value"]), claim.get("arm", "student")
        measured = by_name.get((claim["measurement"], arm))
        here, outcome = "–", "not measured"
        if measured:
            here = figure(measured.value, measured.unit, measured.low, measured.high)
            inside = measured.low is not None and measured.high is not None and measured.low <= claimed <= measured.high
            is_met = (measured.value - claimed) * (1 if measured.higher_is_better else -1) >= 0
            outcome = "met" if is_met else "not shown" if inside else "missed"
        shown = figure(claimed, measured.unit if measured else "")
        yield [f"{claim['measurement']} of {arm}", shown, here, outcome, claim["source"]]


@click.command("claims")
@click.argument("named", metavar="RECIPE|RUN")
@click.option("--out", type=click.Path(file_okay=False), default="runs", show_default=True, help="Folder for runs.")
def claims(named: str, out: str) -> None:
    """Compare published figures with those of a run.

    RUN is the name or the folder of a finished run. RECIPE is a file; its claims are compared with the run of its name. A
    claim is "met" by a value that is as good or better, "missed" by a worse one, and "not shown" if the 95 % interval of a
    worse one includes it.

    \b
    Example:  kdtool claims recipes/code-craft.yaml
    """  # noqa: D301 - click reads backspaces
    from kdtool._cli.shared import table
    from kdtool._recipe.parser import load_recipe

    if Path(named).is_file():
        loaded = load_recipe(Path(named))
        recipe, run = loaded.data, Path(out) / loaded.name
        results = kdtool.load(run) if (run / "results.json").is_file() else None
    else:
        results = kdtool.load(named, out=out)
        recipe, run = results.recipe, results.folder
    if not (rows := list(compare_claims(recipe, results.values if results else ()))):
        remedy = 'claims: [{measurement: humaneval.pass@1, value: 0.423, source: "the paper"}]'
        raise kdtool.UsageError(f"claims: {named} has none; add published figures to the recipe, such as `{remedy}`")
    kdtool.say(table(["claim", "published", "here", "outcome", "source"], rows))
    if not results:
        kdtool.say(f"\n{run} is not a finished run: run the recipe, or name a run")
