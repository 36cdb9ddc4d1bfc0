"""Quality against size and against speed: one point per subject, with the Pareto front.

A measurement of quality has a chart for each cost known for at least two of its subjects: file size, else parameters, and
decode speed. Controls have the student's shape, so an evaluator of cost may measure one for all: an arm without a cost uses
the student's, or that of its exported folder. Exports have the student's parameters; `per_parameter` divides scores by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from textwrap import shorten
from typing import TYPE_CHECKING

import kdtool

from kdtool_reporter_html._charts import COLOURS, Chart, colour_of, draw, is_wide, scale, spread
from kdtool_reporter_html._numbers import interval, quantity, tick
from kdtool_reporter_html._subjects import Measured, Subjects, arm_order, key_of, name, own_name, title
from kdtool_reporter_html._summary import COST_UNITS, Cell, MeasurementRow, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Point", "front_of", "per_parameter", "plain_export", "tradeoffs"]

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
