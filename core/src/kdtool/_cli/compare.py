"""`kdtool compare RUN RUN …`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from kdtool._cli.options import json_option, out_option
from kdtool._text.markdown import markdown_table, measurement_title, number, number_range, signed_difference

if TYPE_CHECKING:
    from kdtool._contract.comparison import ArmValue, Comparison

RunSettings: TypeAlias = "Mapping[str, Mapping[str, Mapping[str, str]]]"


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@out_option
@click.option(
    "--arm", "arms", multiple=True, help="An arm to compare [default: the students]; may be given repeatedly."
)
@click.option("--html", type=click.Path(file_okay=False), help="Also write a report into this folder.")
@json_option
def compare(runs: tuple[str, ...], out: str, arms: tuple[str, ...], html: str | None, as_json: bool) -> None:
    """Put finished runs (names or folders) side by side, with intervals of the differences between them.

    Differences are paired over the same items and seeds. Values that were measured in different ways are named and not
    judged.
    """
    from kdtool._api import report_of
    from kdtool._results.compare_runs import as_results, settings_by_run
    from kdtool._results.compare_runs import compare as compare_runs
    from kdtool._results.files import PLAIN

    found = compare_runs(runs, out=out, arms=arms)
    page = report_of(as_results(found, Path(html).absolute())) if html else None
    if as_json:
        plain = {key: getattr(found, key) for key in ("values", "comparisons", "notes", "verdict")}
        click.echo(PLAIN.dump_json(plain, indent=1).decode())
        return
    parts = [*differences(found.comparisons, found.notes), *value_tables(found.values, settings_by_run(found))]
    click.echo("\n\n".join([found.verdict, *parts]))
    if page:
        click.echo(f"\nreport: {page}")


def value_tables(values: Mapping[str, Sequence[ArmValue]], settings: RunSettings | None = None) -> Iterator[str]:
    """Yield a table of each measurement: the value of every run's arms with its interval.

    Runs that measured in different ways have tables of their own, below the settings that differ; `settings` are by
    measurement and run.
    """
    for name in dict.fromkeys(value.measurement for each in values.values() for value in each):
        own = [(run, value) for run, each in values.items() for value in each if value.measurement == name]
        title = measurement_title(name, own[0][1].unit, higher_is_better=own[0][1].higher_is_better)
        for way, runs in _ways((settings or {}).get(name, {}), dict.fromkeys(run for run, _ in own)).items():
            rows = [
                [run, v.arm, number(v.value), number_range(v.low, v.high), str(v.seeds)]
                for run, v in own
                if run in runs
            ]
            yield f"{title}{way}\n\n{markdown_table(['run', 'subject', 'value', '95 % interval', 'seeds'], rows)}"


def _ways(settings: Mapping[str, Mapping[str, str]], runs: Iterable[str]) -> dict[str, list[str]]:
    """Return runs by the settings in which they differ, in words."""
    own = {run: settings.get(run, {}) for run in runs}
    keys = sorted({key for each in own.values() for key in each})
    apart = [key for key in keys if len({each.get(key) for each in own.values()}) > 1]
    found: dict[str, list[str]] = {}
    for run, each in own.items():
        way = ", ".join(f"{key} {each.get(key, 'not set')}" for key in apart)
        found.setdefault(f"; measured with {way}" if way else "", []).append(run)
    return found


def in_figures(found: Comparison) -> list[str]:
    """Return a difference and the ends of its interval."""
    return [signed_difference(each, relative=found.relative) for each in (found.difference, found.low, found.high)]


def differences(comparisons: Sequence[Comparison], notes: Sequence[str]) -> Iterator[str]:
    """Yield a table of the comparisons, and the notes on pairs that were not compared."""
    rows = []
    for found in comparisons:
        value, low, high = in_figures(found)
        over = f"{found.items} items, {found.seeds} seed{'s' * (found.seeds != 1)}"
        rows.append([found.measurement, value, f"{low} to {high}", found.verdict, found.arm, found.against, over])
    if rows:
        head = ["measurement", "difference", "95 % interval", "shown", "of", "against", "over"]
        yield markdown_table(head, rows)
    if notes:
        yield "\n".join(notes)
