"""`kdtool sweep`: one recipe run at every point of a grid of settings, and one table of the results.

All points are checked, then run one after the other, each in `<out>/<recipe's name>-sweep/<label>/`. They share text, rows
and signals through the store. Points that were measured differently are not ranked.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Literal

import click
import kdtool
from filelock import FileLock, Timeout
from kdtool._cli.shared import (
    offline_option,
    out_option,
    read_pairs,
    recipe_argument,
    say_markdown,
    set_option,
    store_option,
)
from kdtool._plugins.hooks import translate_errors
from kdtool._recipe.parser import load_recipe
from kdtool._recipe.yaml import read_scalar
from kdtool._results.comparisons import BySeed, arm_of, compare, differing, read_items
from kdtool._results.files import PLAIN
from kdtool._store.files import write_beside
from kdtool._text.names import name_from
from kdtool._text.terminal import end_first_line, html_table, number, number_range, print_first_line

Recipe = Path | str | Mapping[str, Any]
Grid = Mapping[str, Sequence[Any] | str]
_EXAMPLE = "--grid 'student.layers=[8, 12]'"
_EXPECTED = f"expected a YAML list of values, or one scalar, such as {_EXAMPLE}"
_OPTIMISTIC = (
    "The best of several points is chosen by the numbers that report it, so they flatter it: choose on validation data, "
    "then measure the chosen point once on test data."
)
_ONE_SEED = " With one seed, a difference may be the seed's: give several."
_STYLE = "body{font:16px/1.5 system-ui;margin:1em;color-scheme:light dark} td,th{text-align:left;padding:.3em 1em}"


@dataclass
class SweepPoint:
    """One point and its outcome; it is "not run" if the sweep was stopped. `report` is relative to the sweep's folder."""

    label: str
    values: Mapping[str, Any]
    folder: Path
    status: Literal["done", "failed", "not run"] = "not run"
    reused: bool = False
    error: str = ""
    exit_code: int = 0
    verdict: str = ""
    report: str = ""
    results: kdtool.Results | None = None


@dataclass
class SweepResults:
    """All of a sweep: `grid` has the keys that vary, `caution` how far to trust the best point; "" if none is ranked.

    `tables` has a mapping for each measurement, as in `sweep.json`, with a `kdtool.ArmValue` in each cell. If points are
    ranked, the best one is first; "best value" is the best of values that were not tested for differences.
    """

    name: str
    folder: Path
    grid: Mapping[str, Sequence[Any]]
    points: Sequence[SweepPoint]
    tables: Sequence[Mapping[str, Any]] = ()
    caution: str = ""

    @property
    def exit_code(self) -> int:
        """0 if every point is done, else the exit code of the first that failed."""
        return next((point.exit_code for point in self.points if point.status == "failed"), 0)


@translate_errors()
def sweep(
    recipe: Recipe,
    grid: Grid,
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str = "runs",
    store: Path | str | None = None,
    offline: bool = False,
) -> SweepResults:
    """Run a recipe at every point of a grid, one after the other; a second call resumes where the first stopped.

    A point that fails does not stop the others, unless money or a key is missing or the disk is full: they would fail alike.
    `grid` has the values that each key takes in turn, such as {"student.layers": [8, 12], "seeds": [[0, 1]]}; the other
    arguments and errors are those of `kdtool.run`.
    """
    swept, call = _prepare(recipe, grid, settings or {}, out, store)
    swept.folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(swept.folder / ".lock").acquire(timeout=0.5)  # that of a killed process is free by itself
    except Timeout as error:
        message = f"another sweep works in {swept.folder}; wait for it, or choose another --out"
        raise kdtool.LockedError(message) from error
    with held:
        for index, point in enumerate(swept.points, 1):
            if point.status == "failed":  # known beforehand
                continue
            values = ", ".join(f"{key} {value}" for key, value in point.values.items())
            print_first_line(f"point {index} of {len(swept.points)}: {point.label} ({values})")
            try:
                _run_point(point, call, offline=offline)
            finally:
                end_first_line()
            if point.exit_code:
                kdtool.say(f"{point.label} failed, the other points run: {point.error}", err=True)
            elif point.reused:
                kdtool.say(f"{point.label} was finished before: nothing ran", err=True)
            _write(swept)
        _compare_points(swept)
        _write(swept)
    return swept


@kdtool.waiting("checking all points of the sweep …")
def _prepare(
    recipe: Recipe, grid: Grid, settings: Mapping[str, Any], out: Path | str, store: Path | str | None
) -> tuple[SweepResults, Callable[..., Any]]:
    """Return the points, none of which has a mistake in its recipe, and a callable that calls a function for one of them."""
    path, read = Path(recipe) if isinstance(recipe, str) else recipe, read_grid(grid)
    varied = {key: values for key, values in read.items() if len(values) > 1}
    points = points_of(varied)

    def settings_at(label: str) -> dict[str, Any]:
        values = {**{key: values[0] for key, values in read.items()}, **points[label]}
        quoted = {key: _write_value(value) if isinstance(value, str) else value for key, value in values.items()}
        return {**settings, **quoted}  # otherwise text would be read as YAML

    def call(function: Callable[..., Any], label: str, **keywords: Any) -> Any:
        return function(path, {**settings_at(label), "name": _write_value(label)}, store=store, **keywords)

    def refusal(function: Callable[..., Any], label: str, **keywords: Any) -> kdtool.UsageError | None:
        try:
            call(function, label, **keywords)
        except Exception as error:  # the point's run meets others, too
            return error if isinstance(error, kdtool.UsageError) else None
        return None

    affected: dict[kdtool.Problem, list[str]] = {}
    for label in points:
        error = refusal(kdtool.plan, label)
        for problem in error.problems if isinstance(error, kdtool.RecipeError) else ():
            affected.setdefault(problem, []).append(label)
    problems = []
    for problem, at in affected.items():
        rest = f" and {len(at) - 3} more" if len(at) > 3 else ""
        where = f" (at the point{'s' * (len(at) > 1)} {', '.join(at[:3])}{rest})" if len(at) < len(points) else ""
        problems.append(replace(problem, message=problem.message + where))
    if problems:
        raise kdtool.RecipeError(problems)
    with contextlib.redirect_stderr(
        io.StringIO()
    ):  # the point's run prints it again; all fits: no remedy is looked for
        refused = {label: refusal(kdtool.check, label, memory=sys.maxsize, out=out) for label in points}
    first, *others = refused.values()
    if first and all(str(error) == str(first) for error in others):
        raise first
    name = load_recipe(path, settings_at(next(iter(points)))).name
    folder = Path(out).absolute() / f"{name}-sweep"
    swept = SweepResults(name, folder, varied, [SweepPoint(*each, folder / each[0]) for each in points.items()])
    for point in swept.points:
        if error := refused[point.label]:
            _fail_point(point, error)
            kdtool.say(f"{point.label} cannot run, the other points do: {point.error}", err=True)
    return swept, call


def _run_point(point: SweepPoint, call: Callable[..., Any], *, offline: bool) -> None:
    """Run a point and record its outcome. A missed requirement is not a failure: the point's report shows it."""
    try:
        results = call(kdtool.run, point.label, out=point.folder.parent, offline=offline)
    except (kdtool.BudgetError, kdtool.AuthenticationError, kdtool.StorageError):  # the other points would meet it too
        raise
    except Exception as error:
        results = error.results if isinstance(error, kdtool.TargetMissedError) else None
        if results is None:
            return _fail_point(point, error)
    point.status, point.reused = "done", all(stage.reused for stage in results.stages)
    point.report = (results.report or point.folder).relative_to(point.folder.parent).as_posix()
    point.verdict, point.results = results.verdict, results


def _fail_point(point: SweepPoint, error: Exception) -> None:
    known = error if isinstance(error, kdtool.KdtoolError) else None
    notes = f" ({'; '.join(error.__notes__)})" if hasattr(error, "__notes__") else ""
    point.error = f"{'' if known else f'{type(error).__name__}: '}{error}{notes}"
    point.status, point.exit_code = "failed", (known or kdtool.KdtoolError).exit_code


def read_grid(grid: Grid) -> dict[str, list[Any]]:
    """Return the values of each key, from a list in which text is YAML, or from the YAML of a list or of one scalar."""
    read: dict[str, list[Any]] = {}
    problems = ["name cannot be swept: each point is named after its values"] if "name" in grid else []
    for key, given in grid.items():
        try:
            values = _read(given) if isinstance(given, str) else [*map(_read, given)]
            if isinstance(given, Mapping) or isinstance(values, Mapping) or not str(given).strip():
                raise TypeError
        except (kdtool.RecipeError, TypeError) as error:
            reason = f"{error.problems[0].message}; " if isinstance(error, kdtool.RecipeError) else ""
            problems.append(f"--grid {key}={given}: {reason}{_EXPECTED}")
            continue
        read[key] = values if isinstance(values, list) else [values]
        counts = Counter(map(_write_value, read[key]))
        problems += [f"{key} has the value {text} more than once" for text in sorted(counts) if counts[text] > 1]
        problems += [] if counts else [f"{key} has no values"]
    if not problems and all(len(values) == 1 for values in read.values()):
        problems = [f"no key has more than one value, so there is nothing to sweep; write for example {_EXAMPLE}"]
    if problems:
        raise kdtool.UsageError("; ".join(problems))
    return read


def _read(value: Any) -> Any:
    return read_scalar(value) if isinstance(value, str) else value


def _write_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def points_of(varied: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return all combinations of values by label, a run's name that does not depend on the other points.

    Labels also differ on file systems that do not distinguish A from a. The last key varies fastest.
    """
    ends = {key: ["-".join(key.split(".")[start:]) for start in range(key.count("."), -1, -1)] for key in varied}
    counts = Counter(end.lower() for of_key in ends.values() for end in of_key)
    short = {k: next((e for e in ends[k] if counts[e.lower()] == 1), name_from(k, "x", apart=k)) for k in varied}
    points = {}
    for combination in itertools.product(*varied.values()):
        values = dict(zip(varied, combination, strict=True))
        points[name_from("--".join(f"{short[key]}-{_short(value)}" for key, value in values.items()), "x")] = values
    return points


def _short(value: Any) -> str:
    """Write a value for a label: numbers and simple words as they are, others with a part of their hash."""
    text = _write_value(value)
    plain = value if isinstance(value, str) else text.replace(".", "_").replace("+", "")
    pattern = "[a-z0-9]+(-[a-z0-9]+)*" if plain is value else "-?[0-9_]+(e-?[0-9]+)?|true|false|null"
    simple = re.fullmatch(pattern, plain) and (plain is not value or read_scalar(plain) == plain)
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:24].strip("-")
    return plain if simple else f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def _compare_points(swept: SweepResults) -> None:
    """Put the measurements of finished points into tables."""
    runs = {point.label: point.results for point in swept.points if point.results is not None}
    subjects = sorted((s for run in runs.values() for s in run.subjects), key=lambda s: s.role == "artifact")
    texts = {stage.fingerprint for run in runs.values() for stage in run.stages if stage.name == "text"}
    tables: list[dict[str, Any]] = []
    for name in dict.fromkeys(value.measurement for run in runs.values() for value in run.values):
        cells: dict[str, dict[str, kdtool.ArmValue]] = {}
        students: dict[str, BySeed] = {}
        for label, run in runs.items():  # only intervals over seeds are shown
            values = (value for value in run.values if value.measurement == name)
            cells[label] = {v.arm: v if v.seeds > 1 else replace(v, low=None, high=None) for v in values}
        first = next(value for row in cells.values() for value in row.values())
        columns = [arm for arm in dict.fromkeys(map(arm_of, subjects)) if any(arm in row for row in cells.values())]
        ranked_by = next((arm for arm in columns if arm == "student" or arm.startswith("student-")), "")
        best_first = [label for label in cells if ranked_by in cells[label]]
        best_first.sort(key=lambda label: cells[label][ranked_by].value, reverse=first.higher_is_better)
        for label in best_first:
            seeds = {s.name: s.seed for s in runs[label].subjects if arm_of(s) == ranked_by}
            of_name = [m for m in runs[label].measurements if m.name == name and m.subject in seeds]
            students[label] = {seeds[m.subject]: m for m in of_name}
        standings, note = _rank(students) if len(students) > 1 else ({}, "")
        if standings and len(texts) > 1:
            note = "; ".join(filter(None, [note, "the points' texts differ, so items of one name may differ too"]))
        order = dict.fromkeys([*best_first, *runs] if standings else runs)
        rows = [{"point": label, "cells": cells[label], "standing": standings.get(label, "")} for label in order]
        about = {
            "measurement": name,
            "unit": first.unit,
            "higher_is_better": first.higher_is_better,
            "columns": columns,
        }
        tables.append({**about, "rows": rows, "ranked_by": ranked_by, "note": note})
    swept.tables, ranked = tables, [row for table in tables for row in table["rows"] if row["standing"]]
    one_seed = all(value.seeds == 1 for row in ranked for value in row["cells"].values())
    swept.caution = f"{_OPTIMISTIC}{_ONE_SEED * one_seed}" if ranked else ""


def _rank(points: Mapping[str, BySeed]) -> tuple[dict[str, str], str]:
    """Return how each point compares with the first, the best, and a note; no standings if they cannot be compared."""
    (best, reference), *others = points.items()
    measured = [m for by_seed in points.values() for m in by_seed.values()]
    firsts = [next(iter(by_seed.values())) for by_seed in points.values()]
    if keys := {key for other in firsts for key in differing(firsts[0], other)}:
        return {}, f"not ranked: the points were measured differently ({', '.join(sorted(keys))})"
    if any(by_seed.keys() != reference.keys() for _, by_seed in others):
        return {}, "not ranked: the points have different seeds"
    if len({frozenset(read_items(m.items)) for m in measured}) > 1:
        return {}, "not ranked: the points were measured on different items"
    if any(m.items is None for m in measured):
        return {best: "best value"}, "differences are not tested: it is not measured item by item"
    standings = {best: "best"}
    for label, by_seed in others:
        compared = compare(label, best, [(by_seed[seed], reference[seed]) for seed in by_seed])
        standings[label] = "worse" if compared and compared.verdict == "worse" else "not shown to differ"
    return standings, "" if "worse" in standings.values() else "no point is shown to differ from the best"


def _write(swept: SweepResults) -> None:
    points = [{**vars(p), "folder": p.label, "report": p.report or None, "results": None} for p in swept.points]
    plain = {"format": 1, **vars(swept), "folder": ".", "points": points}
    write_beside(swept.folder / "sweep.json", PLAIN.dump_json(plain, indent=1).decode() + "\n")
    write_beside(swept.folder / "sweep.md", as_markdown(swept))
    write_beside(swept.folder / "sweep.html", as_html(swept))


def _sections(swept: SweepResults) -> Iterator[tuple[str, list[list[str]], str]]:
    """Yield title, rows and note of the table of outcomes and of each measurement, then notes on all; headings are a row."""
    keys = {p.label: [v if isinstance(v, str) else _write_value(v) for v in p.values.values()] for p in swept.points}
    rows = [[*swept.grid, "result", "report"]]
    for point in swept.points:
        outcome = f"{point.status}: {' '.join(point.error.split())}".removesuffix(": ") + " before" * point.reused
        rows.append([*keys[point.label], outcome, point.report])
    yield "", rows, ""
    for table in swept.tables:
        ranked, note = any(row["standing"] for row in table["rows"]), table["note"]
        rows = [[*swept.grid, *table["columns"], *[f"{table['ranked_by']} among the points"] * ranked]]
        for row in table["rows"]:
            values = [row["cells"].get(column) for column in table["columns"]]
            cells = [
                f"{number(v.value)} ({number_range(v.low, v.high)})".removesuffix(" ()") if v else "" for v in values
            ]
            rows.append([*keys[row["point"]], *cells, *[row["standing"]] * ranked])
        better = "higher" if table["higher_is_better"] else "lower"
        title = f"{table['measurement']} ({table['unit']}; {better} is better)"
        yield title, rows, f"{note[0].upper()}{note[1:]}." if note else ""
    if any(value.low is not None for table in swept.tables for row in table["rows"] for value in row["cells"].values()):
        yield "", [], "Numbers are means over seeds, with 95 % intervals over seeds and items."
    yield "", [], swept.caution


def as_markdown(swept: SweepResults) -> str:
    """Return the tables in Markdown that is aligned, so that it reads well in a terminal, too."""
    parts = [f"# Sweep of {swept.name}"]
    for title, rows, note in _sections(swept):
        shown = [[cell.partition("\n")[0].replace("|", "\\|") for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in shown]
        lines[1:1] = [f"|{'|'.join('-' * (width + 2) for width in widths)}|"] * bool(lines)
        parts += [title and f"## {title}", "\n".join(lines), note]
    return "\n\n".join(filter(None, parts)) + "\n"


def as_html(swept: SweepResults) -> str:
    """Return the tables as a page that loads nothing from elsewhere."""
    head = f'<meta charset="utf-8"><title>Sweep of {escape(swept.name)}</title><style>{_STYLE}</style>'
    parts = [f'<!doctype html><html lang="en">{head}<h1>Sweep of {escape(swept.name)}</h1>']
    for title, rows, note in _sections(swept):
        parts += [f"<h2>{escape(title)}</h2>", html_table(rows) if rows else "", f"<p>{escape(note)}</p>"]
    return re.sub(r"<td>([\w-]+/report\.\w+)</td>", r'<td><a href="\1">\1</a></td>', "\n".join(parts)) + "\n"


@click.command("sweep")
@recipe_argument
@click.option(
    "--grid", multiple=True, metavar="KEY=[VALUE, VALUE]", callback=read_pairs,
    help="Values that a key takes in turn: a YAML list such as 'student.layers=[8, 12]', or a scalar for one value. Repeat "
    "the option to run all combinations. A value that is itself a list is written in a list: 'seeds=[[0, 1], [2, 3]]'.",
)  # fmt: skip
@set_option
@out_option
@store_option
@offline_option
@click.option("--plan", is_flag=True, help="Only print which stages of which points would run.")
@click.option("--json", "as_json", is_flag=True, help="Print sweep.json; messages go to standard error.")
def command(plan: bool, as_json: bool, offline: bool, **given: Any) -> None:
    """Run a recipe at every point of a grid of settings.

    The points run one after the other, and one table shows their results. The same command resumes where it stopped. A
    point that fails does not stop the others.
    """
    if plan:
        swept, call = _prepare(**given)
        made: set[Path] = set()  # by earlier points
        for point in (point for point in swept.points if point.status == "not run"):
            kdtool.say(point.label)
            for stage in call(kdtool.plan, point.label, out=swept.folder):
                kdtool.say(f"  {'reuse' if stage.path in made else stage.action:<8} {stage.title}")
                made.add(stage.path)
        return
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        swept = sweep(**given, offline=offline)
    if as_json:
        click.echo((swept.folder / "sweep.json").read_text(encoding="utf-8"), nl=False)
    else:
        say_markdown(f"\n{as_markdown(swept)}")
        kdtool.say(f"tables: {swept.folder / 'sweep.html'}")
    click.get_current_context().exit(swept.exit_code)
