"""`kdtool compare RUN RUN …`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdtool._cli.options import json_option, out_option
from kdtool._cli.table import table
from kdtool._text.figures import SHOWN_UNITS, figure

if TYPE_CHECKING:
    from kdtool._contract.comparison import ArmValue, Comparison


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@out_option
@click.option(
    "--arm", "arms", multiple=True, help="An arm to compare [default: the students]; may be given repeatedly."
)
@click.option("--html", type=click.Path(file_okay=False), help="Also write a report into this folder.")
@json_option
def compare(runs: tuple[str, ...], out: str, arms: tuple[str, ...], html: str | None, as_json: bool) -> None:
    """Compare finished runs, with intervals of the differences.

    A RUN is a name or a folder. Differences are paired over the same items and seeds. Values that were measured in
    different ways are named and not judged.
    """
    from kdtool._api import report_of
    from kdtool._results.compare_runs import as_results, settings_by_run
    from kdtool._results.compare_runs import compare as compare_runs
    from kdtool._results.files import PLAIN

    compared = compare_runs(runs, out=out, arms=arms)
    page = report_of(as_results(compared, Path(html).absolute())) if html else None
    if as_json:
        plain = {key: getattr(compared, key) for key in ("values", "comparisons", "notes", "verdict")}
        click.echo(PLAIN.dump_json(plain, indent=1).decode())
        return
    ways = {name: _ways(runs) for name, runs in settings_by_run(compared).items()}
    columns: dict[str, list[ArmValue]] = {}
    for run, values in compared.values.items():
        shown = [value for value in values if value.arm in (arms or ["student"])] or values
        named = [replace(v, measurement=v.measurement + ways.get(v.measurement, {}).get(run, "")) for v in shown]
        columns |= by_arm(named, f"{run}/") if len({value.arm for value in shown}) > 1 else {run: named}
    tables = [value_table(columns), *differences(compared.comparisons, compared.values.values())]
    click.echo(
        "\n\n".join([verdict(compared.verdict, compared.comparisons), *tables, "\n".join(compared.notes)]).rstrip()
    )
    if page:
        click.echo(f"\nreport: {page}")


def by_arm(values: Sequence[ArmValue], before: str = "") -> dict[str, list[ArmValue]]:
    """Return the values of one run by arm; `before` precedes the names."""
    return {f"{before}{arm}": [v for v in values if v.arm == arm] for arm in dict.fromkeys(v.arm for v in values)}


def value_table(columns: Mapping[str, Sequence[ArmValue]]) -> str:
    """Return a table with a row for each measurement, from the values below each heading."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    heads = []
    for heading, values in columns.items():
        seeds = max((value.seeds for value in values), default=1)
        heads.append(f"{heading}, {seeds} seeds" if seeds > 1 else heading)
        for value in values:
            unit = "" if value.unit in {*SHOWN_UNITS, value.measurement} else f", {value.unit}"
            title = f"{value.measurement} {'↑' if value.higher_is_better else '↓'}{unit}"
            rows[title][heading] = figure(value.value, value.unit, value.low, value.high)
    return table(["", *heads], [[title, *(cells.get(each, "–") for each in columns)] for title, cells in rows.items()])


def _ways(settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the settings in which runs differ, in words; "" if they do not."""
    keys = sorted({key for each in settings.values() for key in each})
    apart = [key for key in keys if len({each.get(key) for each in settings.values()}) > 1]
    words = {run: ", ".join(f"{key} {each.get(key, 'not set')}" for key in apart) for run, each in settings.items()}
    return {run: f" ({way})" if way else "" for run, way in words.items()}


def verdict(text: str, comparisons: Sequence[Comparison]) -> str:
    """Return a verdict with a sign and a colour: of the student against its controls, or of all comparisons."""
    of_student = [each for each in comparisons if each.arm == "student" and each.against.startswith("control")]
    verdicts = {each.verdict for each in of_student or comparisons}
    better, worse = "better" in verdicts, "worse" in verdicts
    sign, colour = ("○", "yellow") if better == worse else ("▲", "green") if better else ("▼", "red")
    return click.style(f"{sign} {text}", fg=colour, bold=True)


def difference(found: Comparison, unit: str = "") -> str:
    """Return a difference with its interval: in percent if it is relative, in points between fractions."""
    unit = "fraction" if found.relative else unit
    text = figure(found.difference, unit, found.low, found.high, signed=True)
    return text if found.relative else text.replace(" %", " points")


def differences(comparisons: Sequence[Comparison], values: Iterable[Sequence[ArmValue]]) -> list[str]:
    """Return a table of the comparisons; none without any. The `values` know the units."""
    units = {value.measurement: value.unit for each in values for value in each}
    rows = []
    for found in comparisons:
        over = f"{found.items} items" + (f", {found.seeds} seeds" if found.seeds > 1 else "")
        shown = difference(found, units.get(found.measurement, ""))
        rows.append([found.measurement, found.arm, found.against, shown, found.verdict, over])
    return [table(["", "of", "against", "difference", "shown", "over"], rows)] if rows else []
