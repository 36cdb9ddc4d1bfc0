"""`kdtool compare RUN RUN …`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdtool._cli.options import json_option, out_option

if TYPE_CHECKING:
    from kdtool._contract.reporting import Comparison
    from kdtool._results.compare_runs import ComparedRow


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@out_option
@click.option(
    "--arm", "arms", multiple=True, help="An arm to compare [default: the students]; may be given repeatedly."
)
@click.option("--html", type=click.Path(file_okay=False), help="Also write a report into this folder.")
@json_option
def compare(runs: tuple[str, ...], out: str, arms: tuple[str, ...], html: str | None, as_json: bool) -> None:
    """Put finished runs (names or folders) side by side: every subject's values, and what differs between the runs.

    Differences are paired over the same items and seeds, where they were measured in the same way; what was measured in
    another way is named and not judged.
    """
    from kdtool._api import report_of
    from kdtool._results.compare_runs import as_results
    from kdtool._results.compare_runs import compare as compare_runs

    found = compare_runs(runs, out=out, arms=arms)
    page = report_of(as_results(found, Path(html).absolute())) if html else None
    if as_json:
        from kdtool._results.files import PLAIN

        plain = {key: getattr(found, key) for key in ("rows", "comparisons", "notes", "verdict")}
        click.echo(PLAIN.dump_json(plain, indent=1).decode())
        return
    click.echo("\n\n".join([*values(found.rows), *differences(found.comparisons, found.notes), found.verdict]))
    if page:
        click.echo(f"\nreport: {page}")


def differences(comparisons: tuple[Comparison, ...], notes: tuple[str, ...]) -> Iterator[str]:
    """Yield a table of what differs, and what was not compared."""
    from kdtool._text.markdown import aligned

    if comparisons:
        head = ["measurement", "difference", "95 % interval", "shown", "of", "against", "over"]
        yield aligned(head, [_difference(found) for found in comparisons])
    if notes:
        yield "\n".join(notes)


def values(rows: Sequence[ComparedRow]) -> Iterator[str]:
    """Yield a table of each measurement: every arm's value with its interval."""
    from kdtool._text.markdown import aligned

    for name in dict.fromkeys(row.measurement for row in rows):
        own = [row for row in rows if row.measurement == name]
        direction = "higher" if own[0].higher_is_better else "lower"
        title = f"{name} ({own[0].unit}; {direction} is better)"
        yield f"{title}\n\n{aligned(['run', 'subject', 'value', '95 % interval', 'seeds'], [_cells(row) for row in own])}"


def _cells(row: ComparedRow) -> list[str]:
    from kdtool._text.markdown import number

    bounds = "" if row.low is None or row.high is None else f"{number(row.low)} to {number(row.high)}"
    return [row.run, row.arm, number(row.value), bounds, str(row.seeds)]


def _difference(found: Comparison) -> list[str]:
    from kdtool._text.markdown import signed

    value, low, high = (signed(each, relative=found.relative) for each in (found.difference, found.low, found.high))
    over = f"{found.items} items, {found.seeds} seed{'' if found.seeds == 1 else 's'}"
    return [found.measurement, value, f"{low} to {high}", found.verdict, found.arm, found.against, over]
