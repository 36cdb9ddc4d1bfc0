"""Commands for finished runs and their store: `kdtool show`, `compare`, `report`, `runs` and `clean`."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdtool._cli.shared import json_option, out_option, store_option, table
from kdtool._estimate.machine import size
from kdtool._text.terminal import SHOWN_UNITS, Styled, count_of, duration, figure, say, style, waiting

if TYPE_CHECKING:
    from kdtool._contract.evaluation import ArmValue, Comparison, Measurement
    from kdtool._contract.reporting import Results
    from kdtool._results.runs import Compared, KnownRun


@click.command()
@click.argument("run")
@out_option
@click.option("--all", "every", is_flag=True, help="Show all measurements, the whole verdict and the notes.")
@json_option
def show(run: str, out: str, every: bool, as_json: bool) -> None:
    """Show the results of a finished run.

    RUN is a name or a folder. Main figures have 95 % intervals. `kdtool report` writes the report for people again.
    """
    from kdtool._api import load

    results = load(run, out=out)
    print_json(results) if as_json else print_results(results, out, every=every)


def print_json(results: Results | Compared) -> None:
    """Print the values of a run or of several, their comparisons and the verdict as JSON."""
    from kdtool._results.files import PLAIN

    plain = {key: getattr(results, key) for key in ("values", "comparisons", "notes", "verdict")}
    click.echo(PLAIN.dump_json(plain, indent=1).decode())


def print_results(results: Results, out: str, *, every: bool = False) -> None:
    """Print a run: its verdict, main figures, requirements, exported files and next steps.

    With `every` also the whole verdict, all comparisons unless models were trained, and the notes.
    """
    from kdtool._contract.evaluation import judge, main_figures
    from kdtool._contract.reporting import where

    main = main_figures(results.values, results.comparisons)
    shown = [value for value in results.values if every or value.measurement in main]
    compared = differences(results.comparisons, [results.values]) if every and not results.arms else []
    say(verdict(results.outcome, judge(results.comparisons, trained=bool(results.arms))))
    say("".join(f"\n{note}\n" for note in (results.verdict, *results.notes) if every))
    for part in (*([value_table(by_arm(shown), results.measurements)] if shown else []), *compared):
        say(part, "\n")
    for needed in results.requirements:
        met = "✓ met" if needed.met else style("✗ missed", fg="red")
        say(met, f": require {needed.measurement} {needed.condition}, {needed.text}")
    if results.arms and results.arms[0].artifacts:
        say(_exported_table(results), "\n")
    for arm in (arm for arm in results.arms if arm.arm == "student"):
        say(f"student, seed {arm.seed}: {results.folder / arm.path}")
    say(where(results))
    left_out = len({value.measurement for value in results.values}) - len({value.measurement for value in shown})
    named = shlex.quote(results.name if out == "runs" else str(results.folder))
    if left_out:
        say(f"{count_of(left_out, 'more measurement')}: kdtool show {named} --all")
    show_next_steps(results, named)


def show_next_steps(results: Results, place: str) -> None:
    """Print the installed commands that use a trained student, for a shell."""
    from kdtool._plugins.registry import defaults_of

    for command in sorted(defaults_of("command")) if results.arms else ():
        say(f"next: kdtool {command} {place}")


def _exported_table(results: Results) -> Styled:
    files = results.exported_files()
    units = {value.measurement: value.unit for value in results.values}
    measured = dict.fromkeys(name for file in files for name in file.comparisons)
    rows = [
        [
            f"{file.artifact.format} {file.artifact.quantisation}".rstrip(),
            size(file.artifact.bytes),
            *(
                difference(file.comparisons[name], units[name]) if name in file.comparisons else "–"
                for name in measured
            ),
            str(results.path_of(file.artifact)),
        ]
        for file in files
    ]
    heads = (f"{name}, to the student" for name in measured)
    return table(["exported", "size", *heads, "path"], rows)


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
    from kdtool._contract.evaluation import shorten
    from kdtool._results.runs import as_results, settings_by_run
    from kdtool._results.runs import compare as compare_runs

    compared = compare_runs(runs, out=out, arms=arms)
    page = report_of(as_results(compared, Path(html).absolute())) if html else None
    if as_json:
        print_json(compared)
        return
    ways = {name: _ways(runs) for name, runs in settings_by_run(compared).items()}
    columns: dict[str, list[ArmValue]] = {}
    for run, values in compared.values.items():
        shown = [value for value in values if value.arm in (arms or ["student"])] or values
        named = [replace(v, measurement=v.measurement + ways.get(v.measurement, {}).get(run, "")) for v in shown]
        columns |= by_arm(named, f"{run}/") if len({value.arm for value in shown}) > 1 else {run: named}
    tables = [value_table(columns, compared.measurements), *differences(compared.comparisons, compared.values.values())]
    headline = verdict(shorten(compared.comparisons, trained=False), compared.comparisons)
    say(headline)
    for part in filter(None, [*tables, "\n".join(compared.notes)]):
        say("\n", part)
    if page:
        say(f"\nreport: {page}")


def by_arm(values: Sequence[ArmValue], before: str = "") -> dict[str, list[ArmValue]]:
    """Return the values of one run by arm; `before` precedes the names."""
    return {f"{before}{arm}": [v for v in values if v.arm == arm] for arm in dict.fromkeys(v.arm for v in values)}


def value_table(columns: Mapping[str, Sequence[ArmValue]], measurements: Iterable[Measurement]) -> Styled:
    """Return a table with a row for each of `measurements`, its number of items, and the values below each heading."""
    counts: dict[str, set[int]] = defaultdict(set)
    for measurement in measurements:
        counts[measurement.name].add(measurement.n)
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    heads = []
    for heading, values in columns.items():
        seeds = max((value.seeds for value in values), default=1)
        heads.append(f"{heading}, {seeds} seeds" if seeds > 1 else heading)
        for value in values:
            unit = "" if value.unit in {*SHOWN_UNITS, value.measurement} else f", {value.unit}"
            title = f"{value.measurement} {'↑' if value.higher_is_better else '↓'}{unit}"
            items = sorted(counts[value.measurement.partition(" (")[0]])
            rows[title][""] = "–".join(map(str, dict.fromkeys([*items[:1], *items[-1:]])))
            rows[title][heading] = figure(value.value, value.unit, value.low, value.high)
    body = [[title, *(cells.get(each, "–") for each in ("", *columns))] for title, cells in rows.items()]
    return table(["", "n", *heads], body)


def _ways(settings: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the settings in which runs differ, in words; "" if they do not."""
    keys = sorted({key for each in settings.values() for key in each})
    apart = [key for key in keys if len({each.get(key) for each in settings.values()}) > 1]
    words = {run: ", ".join(f"{key} {each.get(key, 'not set')}" for key in apart) for run, each in settings.items()}
    return {run: f" ({way})" if way else "" for run, way in words.items()}


def verdict(text: str, comparisons: Sequence[Comparison]) -> str:
    """Return a verdict with the sign and colour of the comparisons that it is about."""
    verdicts = {each.outcome for each in comparisons if not each.aside}
    better, worse = "better" in verdicts, "worse" in verdicts
    sign, colour = ("○", "yellow") if better == worse else ("▲", "green") if better else ("▼", "red")
    return style(f"{sign} {text}", fg=colour, bold=True)


def difference(found: Comparison, unit: str = "") -> str:
    """Return a difference with its interval: in percent if it is relative, in points between fractions."""
    unit = "fraction" if found.relative else unit
    text = figure(found.difference, unit, found.low, found.high, signed=True)
    return text if found.relative else text.replace(" %", " points")


def differences(comparisons: Sequence[Comparison], values: Iterable[Sequence[ArmValue]]) -> list[Styled]:
    """Return a table of the comparisons for each pair of models; none without any. The `values` know the units."""
    units = {value.measurement: value.unit for each in values for value in each}
    pairs: dict[str, list[list[str]]] = defaultdict(list)
    for found in comparisons:
        over = ", ".join([count_of(found.items, "item"), *[count_of(found.seeds, "seed")] * (found.seeds > 1)])
        row = [found.measurement, difference(found, units.get(found.measurement, "")), found.outcome, over]
        pairs[f"{found.arm} against {found.against}"].append(row)
    return [table([pair, "difference", "shown", "over"], rows) for pair, rows in pairs.items()]


@click.command()
@click.argument("run")
@out_option
@click.option("--use", help="Name of the reporter [default: the one of the run's recipe].")
def report(run: str, out: str, use: str | None) -> None:
    """Write the report of a finished run again.

    RUN is a name or a folder. Nothing is computed.
    """
    from kdtool._api import report as write_report

    with waiting("writing the report …"):
        path = write_report(run, use, out=out)
    say(str(path))


@click.command("runs")
@click.argument("pattern", default="")
@out_option
@store_option
@json_option
def list_runs(pattern: str, out: str, store: str | None, as_json: bool) -> None:
    """List runs, the latest first.

    They are in the folder for runs, or use the same store. PATTERN is a part of their names, or a pattern such as 'quick*'.
    Other commands accept names as listed, such as 'quickstart-sweep/layers-8', and a run elsewhere by its folder.
    """
    from kdtool._api import runs as find_runs
    from kdtool._store.shared import store_folder

    listed = find_runs(pattern, out=out, store=store)
    if as_json:
        plain = [{**vars(run), "folder": str(run.folder), "when": run.when.isoformat()} for run in listed]
        click.echo(json.dumps(plain, indent=1))
        return
    if not listed:
        which = "such " if pattern else ""
        say(f"There are no {which}runs in {Path(out).absolute()}, nor any that use the store {store_folder(store)}.")
    else:
        now = datetime.now(UTC)
        rows = [
            [run.name, run.state, duration((now - run.when).total_seconds()), run.figure, _note(run, Path(out))]
            for run in listed
        ]
        say(table(["name", "state", "age", "main result", ""], rows))


def _note(run: KnownRun, out: Path) -> str:
    """Return the outcome, the worker or the damage, and the folder if it is elsewhere."""
    elsewhere = "" if out.resolve() in run.folder.parents else f"in {run.folder}"
    return "; ".join(filter(None, (run.outcome, elsewhere)))


@click.command()
@store_option
@click.option("--yes", is_flag=True, help="Free it; without this it is only shown.")
def clean(store: str | None, yes: bool) -> None:
    """Show or delete unused files in the shared store.

    A run needs what its recipe led to last; a run whose folder is gone needs nothing.
    """
    from kdtool._store.artefacts import clean as clean_store
    from kdtool._store.shared import store_folder

    folder = store_folder(store)
    done = clean_store(folder, remove=yes)
    for item in done.found:
        say(f"{size(item.bytes):>9}  {item.path}  ({done.left.get(item.path) or item.why})")
    freed = size(sum(item.bytes for item in done.found if item.path not in done.left))
    total = f"of {size(done.total)} in {folder} ({count_of(done.runs, 'run')})"
    if not done.found:
        say(f"Nothing to free: all {total} is needed.")
    elif yes:
        say(f"Freed {freed} {total}.")
    else:
        say(f"{freed} {total}. To free them:\n    kdtool clean{f' --store {folder}' if store else ''} --yes")
