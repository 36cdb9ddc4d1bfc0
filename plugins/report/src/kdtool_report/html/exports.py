"""Exported files compared with the student: a row of figures for each file, and a sentence on its costs and savings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import kdtool

from kdtool_report.html.comparisons import FEW, figures
from kdtool_report.html.summary import COST_UNITS, FROM_ZERO, plain_export
from kdtool_report.html.wording import Grouped, Measured, Subjects, key_of, name, percent, quantity, times, title

_COST_COLUMNS = ("decode-speed", "resident-memory")
"""Costs that get a column each, in addition to the size."""


@dataclass(frozen=True)
class Exports:
    """A table with a row for each file, whose cells are a figure and a hint below it, and the sentences."""

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    """An exported file: how sentences call it, its arm ("" if it was not measured), and its comparisons with the student."""

    label: str
    arm: str
    made: kdtool.Artifact
    compared: Mapping[str, kdtool.Comparison]


def exports(results: kdtool.Results, subjects: Subjects) -> Exports:
    """Compare the files that the student's first seed was exported to with the student."""
    files = list(_files(results))
    if not files:
        return Exports()
    grouped = subjects.gather([measurement for measurement in results.measurements if not measurement.texts])
    arms = {file.arm for file in files} - {""}
    quality = [key for key in grouped if _unit(grouped[key]) not in COST_UNITS and arms & grouped[key].keys()]
    costs = [key for key in (key_of(grouped, cost) for cost in _COST_COLUMNS) if arms & grouped.get(key, {}).keys()]
    rows = [
        (
            file.made.path.name,
            (
                (" ".join(filter(None, (file.made.format, file.made.quantisation))), ""),
                _size(file, grouped, subjects),
                *(_quality(file, key, grouped[key]) for key in quality),
                *(_cost(file, key, grouped, subjects) for key in costs),
            ),
        )
        for file in files
    ]
    sentences = (_sentence(file, grouped, subjects) for file in files if file.arm)
    units = [(key, _unit(grouped[key])) for key in costs]
    headings = (title(key) if unit == "bytes" else f"{title(key)}, {unit}" for key, unit in units)
    columns = ("Format", "Size", *map(title, quality), *headings)
    return Exports(columns, tuple(rows), tuple(filter(None, sentences)))


def _files(results: kdtool.Results) -> Iterator[_File]:
    for file in results.exported_files():
        made = file.artifact
        compared = {name: comparison for name, comparison in file.comparisons.items() if not comparison.aside}
        yield _File(made.quantisation or made.format, file.arm, made, compared)


def _unit(arms: Mapping[str, Measured]) -> str:
    return next(iter(arms.values())).first.unit


def _pair(file: _File, key: str, grouped: Grouped, subjects: Subjects) -> tuple[Measured | None, Measured | None]:
    """Return a cost of the file, and that of the student or of the export that was measured in its place."""
    by_arm = grouped.get(key_of(grouped, key), {})
    reference = "student" if "student" in by_arm else plain_export(grouped, subjects)
    return by_arm.get(file.arm), by_arm.get(reference) if reference != file.arm else None


def _size(file: _File, grouped: Grouped, subjects: Subjects) -> tuple[str, str]:
    measured, student = _pair(file, "file-size", grouped, subjects)
    hint = f"{percent(measured.mean / student.mean)} of the student’s" if measured and student and student.mean else ""
    return quantity(float(file.made.bytes), "bytes"), hint


def _quality(file: _File, key: str, arms: Mapping[str, Measured]) -> tuple[str, str]:
    if file.arm not in arms:
        return "–", ""
    comparison, unit = file.compared.get(key), _unit(arms)
    hint = "{} ({})".format(*figures(comparison, unit)) if comparison else ""
    return quantity(arms[file.arm].mean, unit), hint


def _cost(file: _File, key: str, grouped: Grouped, subjects: Subjects) -> tuple[str, str]:
    measured, student = _pair(file, key, grouped, subjects)
    if measured is None:
        return "–", ""
    first = measured.first
    context = [f"context of {first.settings['context']}"] if "context" in first.settings else []
    share = []
    if student and student.mean:
        ratio = measured.mean / student.mean
        part = f"{percent(ratio)} of" if first.unit == "bytes" else times(ratio)
        share = [f"{part} the student’s{_otherwise(measured, student)}"]
    return quantity(measured.mean, first.unit), "; ".join([*share, *context])


def _otherwise(measured: Measured, other: Measured) -> str:
    """Return the settings in which two measurements differ, in words; the number of tokens read is not compared."""
    first, second = (each.first.settings for each in (measured, other))
    keys = [key for key in {**first, **second} if key != "read" and first.get(key) != second.get(key)]
    return f", measured otherwise ({', '.join(keys)})" if keys else ""


def _sentence(file: _File, grouped: Grouped, subjects: Subjects) -> str:
    """Return a sentence on the file's cost, in the first score that it shares with the student, and on its saving."""
    units = {key: _unit(arms) for key, arms in grouped.items()}
    judged = [comparison for comparison in file.compared.values() if comparison.outcome != FEW]
    ranked = sorted(judged, key=lambda comparison: units.get(comparison.measurement) not in FROM_ZERO)
    saved = _state_saving(file, grouped, subjects)
    if not ranked:
        why = "compared on too few items to judge" if file.compared else "not compared with the student’s"
        return f"{file.label} {saved}; its quality was {why}." if saved else ""
    comparison = ranked[0]
    unit, what = units.get(comparison.measurement, ""), name(comparison.measurement)
    what = re.sub(r"(?<=\w)\.(?=[^\W\d])", " ", what)  # "humaneval.pass@1" is "humaneval pass@1" in a sentence
    score = unit in FROM_ZERO and next(iter(grouped[comparison.measurement].values())).first.higher_is_better
    if comparison.verdict == "no evidence of a difference":
        claim = f"no evidence that it {'costs' if score else 'changes'} {what} ({', '.join(figures(comparison, unit))})"
        return f"{file.label}: {claim}" + (f"; it {saved}." if saved else ".")
    lower = comparison.difference < 0
    if lower:
        low, high = -comparison.high, -comparison.low
        comparison = replace(comparison, difference=-comparison.difference, low=low, high=high)
    size, between = (text.replace("+", "") for text in figures(comparison, unit))
    if score:
        claim = f"{'costs' if lower else 'gains'} {size} of {what} ({between})"
    else:
        claim = f"{'lowers' if lower else 'raises'} {what} by {size} ({between})"
    return f"{file.label} {claim}" + (f" and {saved}." if saved else ".")


def _state_saving(file: _File, grouped: Grouped, subjects: Subjects) -> str:
    """Return how much less memory the file takes than the student, or else how many fewer bytes; "" if neither is known."""
    for key, what in (("resident-memory", "memory"), ("file-size", "bytes")):
        measured, student = _pair(file, key, grouped, subjects)
        if measured and student and student.mean:
            share = 1 - measured.mean / student.mean
            verb = "saves" if share >= 0 else "adds"
            at = ""
            if key == "resident-memory":
                at = f" at a context of {measured.first.settings['context']}{_otherwise(measured, student)}"
            return f"{verb} {percent(abs(share))} of the {what}{at}"
    return ""
