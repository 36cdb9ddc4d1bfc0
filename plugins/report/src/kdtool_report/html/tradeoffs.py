"""Quality against size and speed, with the Pareto front, and exported files compared with the student.

A measurement of quality has a chart for each cost known for at least two of its subjects: file size, else parameters,
and decode speed. Controls have the student's shape, so an evaluator of cost may measure one for all: an arm without a
cost uses the student's, or that of its exported folder. Exports have the student's parameters; `per_parameter` divides
scores by them. Each exported file has a row of figures compared with the student's, and a sentence on its costs and
savings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from textwrap import shorten
from typing import TYPE_CHECKING

import kdtool

from kdtool_report.html.charts import COLOURS, Chart, colour_of, draw, is_wide, scale, spread
from kdtool_report.html.comparisons import aside_of, figures, has_few_items
from kdtool_report.html.summary import COST_UNITS, Cell, MeasurementRow, Table
from kdtool_report.html.wording import (
    Measured,
    Subjects,
    arm_order,
    interval,
    key_of,
    name,
    own_name,
    percent,
    quantity,
    tick,
    times,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COSTS = (("file-size", "parameters"), ("decode-speed",))
"""Costs on the horizontal axis: of each group, the first that was measured."""
_MOST = 4
"""Maximum number of quality measurements drawn, in the order of measuring."""
_FROM_ZERO = frozenset({"fraction", "%", "percent"})
"""Ratio-scale units, in which a score can be divided."""


@dataclass(frozen=True)
class Point:
    """One subject: its cost, and its quality with `bounds` of an interval, in their units."""

    arm: str
    cost: float
    quality: float
    bounds: tuple[float, float] | None


def tradeoffs(measurements: Sequence[kdtool.Measurement], subjects: Subjects) -> list[Chart]:
    """Draw every measurement of quality against every cost in which subjects differ."""
    grouped = subjects.gather(measurements)
    units = {measurement.name: (measurement.unit, measurement.higher_is_better) for measurement in measurements}
    qualities = [key for key in grouped if units[key][0] not in COST_UNITS][:_MOST]
    groups = ([key_of(grouped, candidate) for candidate in group] for group in _COSTS)
    costs = [key for group in groups for key in [key for key in group if key in grouped][:1]]
    drawn = (_tradeoff(quality, cost, grouped, units, subjects) for quality in qualities for cost in costs)
    return [chart for chart in drawn if chart is not None]


def per_parameter(measurements: Sequence[kdtool.Measurement], subjects: Subjects) -> Table:
    """Divide scores by billions of parameters, for higher-is-better measurements with a zero point."""
    grouped = subjects.gather(measurements)
    units = {
        measurement.name: measurement.unit
        for measurement in measurements
        if measurement.higher_is_better and measurement.unit in _FROM_ZERO
    }
    cost = key_of(grouped, "parameters")
    known = {key: list(_points(grouped, key, cost, subjects)) for key in grouped if key in units}
    rows = {key: points for key, points in known.items() if len({point.cost for point in points}) > 1}
    arms = arm_order(point.arm for points in rows.values() for point in points)
    made = []
    for key, points in rows.items():
        cells = {point.arm: _divide(point, 100 if units[key] == "fraction" else 1) for point in points}
        row = MeasurementRow(title(key), "points", "higher is better", (), tuple(cells.get(arm) for arm in arms))
        made.append(row)
    return Table(tuple((arm, subjects.title(arm)) for arm in arms), tuple(made))


def _divide(point: Point, factor: float) -> Cell:
    scale = factor * 1e9 / point.cost
    low, high = (edge * scale for edge in point.bounds) if point.bounds else (0.0, 0.0)
    bounds = interval(low, high, "") if point.bounds else ""
    return Cell(quantity(point.quality * scale, "", spread=(high - low) / 2 or None), bounds, "")


def _tradeoff(
    quality: str,
    cost: str,
    grouped: Mapping[str, Mapping[str, Measured]],
    units: Mapping[str, tuple[str, bool]],
    subjects: Subjects,
) -> Chart | None:
    points = list(_points(grouped, quality, cost, subjects))
    if len({point.cost for point in points}) < 2:
        return None
    (unit, higher), (cost_unit, higher_cost) = units[quality], units[cost]
    logarithmic = is_wide(point.cost for point in points)
    titles = {point.arm: subjects.title(point.arm) for point in points}

    def plot(axes: Axes) -> None:
        axes.margins(0.08)
        scale(axes, "x", logarithmic=logarithmic, label=lambda mark: tick(quantity(mark, cost_unit)))
        scale(axes, "y", label=lambda mark: tick(quantity(mark, unit)))
        front = front_of(points, higher=higher, higher_cost=higher_cost)
        joined = sorted((point.cost, point.quality) for point in front)
        axes.plot(*zip(*joined, strict=True), "--", color=COLOURS["muted"], linewidth=0.8)
        for point in points:
            _draw_point(axes, point, best=point in front, exported=subjects.is_exported(point.arm))
        _draw_titles(axes, points, titles)
        axes.set_xlabel(
            ", ".join([name(cost), *([cost_unit] * (cost_unit == "tokens/s")), *(["logarithmic"] * logarithmic)])
        )

    better = f"the {'upper' if higher else 'lower'} {'right' if higher_cost else 'left'} is better"
    words = "; ".join(
        f"{titles[point.arm]}: {quantity(point.quality, unit)} at {quantity(point.cost, cost_unit)}" for point in points
    )
    heading, against = title(quality), name(cost)
    height = max(220, 60 + 18 * len(points))
    drawing = draw(f"{heading} against {against}. {words}.", plot, height=height)
    return Chart(heading, f"against {against}; {better}", drawing)


def _draw_point(axes: Axes, point: Point, *, best: bool, exported: bool) -> None:
    """Draw a point with its interval; an export is a larger diamond, drawn below a student at the same position."""
    colour = COLOURS["export"] if exported else colour_of(point.arm)
    marker, size, order = ("D", 9, 2) if exported else ("o", 7, 3)
    if point.bounds:
        axes.plot([point.cost] * 2, point.bounds, color=colour, linewidth=1.6)
    fill = colour if best else COLOURS["card"]
    axes.plot(point.cost, point.quality, marker, markersize=size, color=colour, markerfacecolor=fill, zorder=order)


def _draw_titles(axes: Axes, points: Sequence[Point], titles: Mapping[str, str]) -> None:
    """Write the titles in a column on the right, without overlaps, each with a line to its point."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ordered = sorted(points, key=lambda point: point.quality)
    heights = spread([(point.quality - low) / (high - low) for point in ordered], 0.1)
    line = {"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.5, "shrinkB": 5, "relpos": (0, 0.5)}
    for point, height in zip(ordered, heights, strict=True):
        text = shorten(titles[point.arm], 28, placeholder=" …")
        axes.annotate(
            text, (point.cost, point.quality), (1.04, height), textcoords="axes fraction", arrowprops=line, va="center",
            fontsize=10, color=COLOURS["ink"], parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _points(
    grouped: Mapping[str, Mapping[str, Measured]], quality: str, cost: str, subjects: Subjects
) -> Iterator[Point]:
    costs = grouped.get(cost, {})
    for arm, measured in ((arm, grouped[quality][arm]) for arm in arm_order(grouped[quality])):
        has_students_cost = subjects.is_trained(arm) or (own_name(cost) == "parameters" and subjects.is_exported(arm))
        source = (
            arm
            if arm in costs or not has_students_cost
            else "student"
            if "student" in costs
            else plain_export(grouped, subjects)
        )
        if source in costs and isfinite(costs[source].mean) and isfinite(measured.mean):
            bounds = measured.bounds
            finite = bounds if bounds and all(map(isfinite, bounds)) else None
            yield Point(arm, costs[source].mean, measured.mean, finite)


def plain_export(grouped: Mapping[str, Mapping[str, Measured]], subjects: Subjects) -> str:
    """Return the exported folder: the export with counted parameters, else the largest; "student" if there is none."""
    sizes = grouped.get(key_of(grouped, "parameters")) or grouped.get(key_of(grouped, "file-size"), {})
    exported = [arm for arm in sizes if subjects.is_exported(arm)]
    return max(exported, key=lambda arm: sizes[arm].mean, default="student")


def front_of(points: Sequence[Point], *, higher: bool, higher_cost: bool) -> list[Point]:
    """Return the Pareto front: points that no other equals in both and beats in one.

    `higher` is true if a higher quality is better, `higher_cost` if a higher cost is, as with speeds.
    """

    def merit(point: Point) -> tuple[float, float]:
        return (point.quality if higher else -point.quality), (point.cost if higher_cost else -point.cost)

    def beaten(candidate: Point) -> bool:
        merits = merit(candidate)
        return any(
            other != merits and other[0] >= merits[0] and other[1] >= merits[1]
            for other in (merit(point) for point in points)
        )

    return [point for point in points if not beaten(point)]


_COST_COLUMNS = ("decode-speed", "resident-memory")
"""Costs that get a column each, in addition to the size."""
_POINT_UNITS = frozenset({"fraction", "%", "percent"})
"""Units in which a loss is worth a sentence before all others."""


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
    columns = ("Format", "Size", *map(title, quality), *(_heading(key, grouped[key]) for key in costs))
    return Exports(columns, tuple(rows), tuple(filter(None, sentences)))


def _files(results: kdtool.Results) -> Iterator[_File]:
    exported = results.exported_files()
    labels = Counter(file.artifact.quantisation or file.artifact.format for file in exported)
    for file in exported:
        made = file.artifact
        label = made.quantisation or made.format
        compared = {name: comparison for name, comparison in file.comparisons.items() if not aside_of(comparison)}
        yield _File(label if labels[label] == 1 else made.path.name, file.arm, made, compared)


def _unit(arms: Mapping[str, Measured]) -> str:
    return next(iter(next(iter(arms.values())).by_seed.values())).unit


def _heading(key: str, arms: Mapping[str, Measured]) -> str:
    unit = _unit(arms)
    return title(key) if unit == "bytes" else f"{title(key)}, {unit}"


def _pair(
    file: _File, key: str, grouped: Mapping[str, Mapping[str, Measured]], subjects: Subjects
) -> tuple[Measured | None, Measured | None]:
    """Return a cost of the file, and that of the student or of the export that was measured in its place."""
    by_arm = grouped.get(key_of(grouped, key), {})
    reference = "student" if "student" in by_arm else plain_export(grouped, subjects)
    return by_arm.get(file.arm), by_arm.get(reference) if reference != file.arm else None


def _size(file: _File, grouped: Mapping[str, Mapping[str, Measured]], subjects: Subjects) -> tuple[str, str]:
    measured, student = _pair(file, "file-size", grouped, subjects)
    hint = f"{percent(measured.mean / student.mean)} of the student’s" if measured and student and student.mean else ""
    return quantity(measured.mean if measured else file.made.bytes, "bytes"), hint


def _quality(file: _File, key: str, arms: Mapping[str, Measured]) -> tuple[str, str]:
    if file.arm not in arms:
        return "–", ""
    comparison, unit = file.compared.get(key), _unit(arms)
    hint = "{} ({})".format(*figures(comparison, unit)) if comparison else ""
    return quantity(arms[file.arm].mean, unit), hint


def _cost(file: _File, key: str, grouped: Mapping[str, Mapping[str, Measured]], subjects: Subjects) -> tuple[str, str]:
    measured, student = _pair(file, key, grouped, subjects)
    if measured is None:
        return "–", ""
    first = next(iter(measured.by_seed.values()))
    context = [f"context of {first.settings['context']}"] if "context" in first.settings else []
    share = []
    if student and student.mean:
        ratio = measured.mean / student.mean
        part = f"{percent(ratio)} of" if first.unit == "bytes" else times(ratio)
        share = [f"{part} the student’s{_otherwise(measured, student)}"]
    return quantity(measured.mean, first.unit), "; ".join([*share, *context])


def _otherwise(measured: Measured, other: Measured) -> str:
    """Return the settings in which two measurements differ, in words; the number of tokens read is not compared."""
    first, second = (next(iter(each.by_seed.values())).settings for each in (measured, other))
    keys = [key for key in {**first, **second} if key != "read" and first.get(key) != second.get(key)]
    return f", measured otherwise ({', '.join(keys)})" if keys else ""


def _sentence(file: _File, grouped: Mapping[str, Mapping[str, Measured]], subjects: Subjects) -> str:
    """Return a sentence on the file's cost, in the first score that it shares with the student, and on its saving."""
    units = {key: _unit(arms) for key, arms in grouped.items()}
    judged = [comparison for comparison in file.compared.values() if not has_few_items(comparison)]
    ranked = sorted(judged, key=lambda comparison: units.get(comparison.measurement) not in _POINT_UNITS)
    saved = _state_saving(file, grouped, subjects)
    if not ranked:
        why = "compared on too few items to judge" if file.compared else "not compared with the student’s"
        return f"{file.label} {saved}; its quality was {why}." if saved else ""
    comparison = ranked[0]
    unit, what = units.get(comparison.measurement, ""), _in_words(comparison.measurement)
    score = unit in _POINT_UNITS and _rises(grouped[comparison.measurement])
    if comparison.verdict == "no evidence of a difference":
        claim = f"no evidence that it {'costs' if score else 'changes'} {what} ({', '.join(figures(comparison, unit))})"
        return f"{file.label}: {claim}" + (f"; it {saved}." if saved else ".")
    lower = comparison.difference < 0
    size, between = (text.replace("+", "") for text in figures(_negate(comparison) if lower else comparison, unit))
    if score:
        claim = f"{'costs' if lower else 'gains'} {size} of {what} ({between})"
    else:
        claim = f"{'lowers' if lower else 'raises'} {what} by {size} ({between})"
    return f"{file.label} {claim}" + (f" and {saved}." if saved else ".")


def _negate(comparison: kdtool.Comparison) -> kdtool.Comparison:
    """Return the comparison with its sign reversed."""
    return replace(comparison, difference=-comparison.difference, low=-comparison.high, high=-comparison.low)


def _state_saving(file: _File, grouped: Mapping[str, Mapping[str, Measured]], subjects: Subjects) -> str:
    """Return how much less memory the file takes than the student, or else how many fewer bytes; "" if neither is known."""
    for key, what in (("resident-memory", "memory"), ("file-size", "bytes")):
        measured, student = _pair(file, key, grouped, subjects)
        if measured and student and student.mean:
            share = 1 - measured.mean / student.mean
            verb = "saves" if share >= 0 else "adds"
            at = ""
            if key == "resident-memory":
                context = next(iter(measured.by_seed.values())).settings["context"]
                at = f" at a context of {context}{_otherwise(measured, student)}"
            return f"{verb} {percent(abs(share))} of the {what}{at}"
    return ""


def _rises(arms: Mapping[str, Measured]) -> bool:
    """Return whether more of a measurement is better."""
    return next(iter(next(iter(arms.values())).by_seed.values())).higher_is_better


def _in_words(key: str) -> str:
    """Return a measurement's name within a sentence, after its evaluator's: "humaneval.pass@1" gives "humaneval pass@1"."""
    return re.sub(r"(?<=\w)\.(?=[^\W\d])", " ", name(key))
