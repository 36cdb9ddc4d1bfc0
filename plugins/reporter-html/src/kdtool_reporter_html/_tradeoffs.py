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

__all__ = ["Place", "front_of", "per_parameter", "plain_export", "tradeoffs"]

_COSTS = (("file-size", "parameters"), ("decode-speed",))
"""Costs on the horizontal axis: of each group, the first that was measured."""
_MOST = 4
"""Maximum number of quality measurements drawn, in the order of measuring."""
_FROM_ZERO = frozenset({"fraction", "%", "percent"})
"""Ratio-scale units, in which a score can be divided."""


@dataclass(frozen=True)
class Place:
    """One subject: its cost, and its quality with `bounds` of an interval, in their units."""

    arm: str
    cost: float
    quality: float
    bounds: tuple[float, float] | None


def tradeoffs(measurements: Sequence[kdtool.Measurement], subjects: Subjects) -> list[Chart]:
    """Draw every measurement of quality against every cost in which subjects differ."""
    grouped = subjects.gather(measurements)
    units = {found.name: (found.unit, found.higher_is_better) for found in measurements}
    qualities = [key for key in grouped if units[key][0] not in COST_UNITS][:_MOST]
    groups = ([key_of(grouped, own) for own in group] for group in _COSTS)
    costs = [key for group in groups for key in [key for key in group if key in grouped][:1]]
    drawn = (_tradeoff(quality, cost, grouped, units, subjects) for quality in qualities for cost in costs)
    return [chart for chart in drawn if chart is not None]


def per_parameter(measurements: Sequence[kdtool.Measurement], subjects: Subjects) -> Table:
    """Divide scores by billions of parameters, for higher-is-better measurements with a zero point."""
    grouped = subjects.gather(measurements)
    units = {found.name: found.unit for found in measurements if found.higher_is_better and found.unit in _FROM_ZERO}
    cost = key_of(grouped, "parameters")
    found = {key: list(_places(grouped, key, cost, subjects)) for key in grouped if key in units}
    rows = {key: places for key, places in found.items() if len({place.cost for place in places}) > 1}
    arms = arm_order(place.arm for places in rows.values() for place in places)
    made = []
    for key, places in rows.items():
        cells = {place.arm: _divide(place, 100 if units[key] == "fraction" else 1) for place in places}
        row = MeasurementRow(title(key), "points", "higher is better", (), tuple(cells.get(arm) for arm in arms))
        made.append(row)
    return Table(tuple((arm, subjects.title(arm)) for arm in arms), tuple(made))


def _divide(place: Place, points: float) -> Cell:
    scale = points * 1e9 / place.cost
    low, high = (edge * scale for edge in place.bounds) if place.bounds else (0.0, 0.0)
    bounds = interval(low, high, "") if place.bounds else ""
    return Cell(quantity(place.quality * scale, "", spread=(high - low) / 2 or None), bounds, "")


def _tradeoff(
    quality: str,
    cost: str,
    grouped: Mapping[str, Mapping[str, Measured]],
    units: Mapping[str, tuple[str, bool]],
    subjects: Subjects,
) -> Chart | None:
    places = list(_places(grouped, quality, cost, subjects))
    if len({place.cost for place in places}) < 2:
        return None
    (unit, higher), (cost_unit, more) = units[quality], units[cost]
    logarithmic = is_wide(place.cost for place in places)
    titles = {place.arm: subjects.title(place.arm) for place in places}

    def plot(axes: Axes) -> None:
        axes.margins(0.08)
        scale(axes, "x", logarithmic=logarithmic, label=lambda mark: tick(quantity(mark, cost_unit)))
        scale(axes, "y", label=lambda mark: tick(quantity(mark, unit)))
        front = front_of(places, higher=higher, more=more)
        joined = sorted((place.cost, place.quality) for place in front)
        axes.plot(*zip(*joined, strict=True), "--", color=COLOURS["muted"], linewidth=0.8)
        for place in places:
            _draw_point(axes, place, best=place in front, exported=subjects.is_exported(place.arm))
        _draw_titles(axes, places, titles)
        axes.set_xlabel(
            ", ".join([name(cost), *([cost_unit] * (cost_unit == "tokens/s")), *(["logarithmic"] * logarithmic)])
        )

    better = f"the {'upper' if higher else 'lower'} {'right' if more else 'left'} is better"
    words = "; ".join(
        f"{titles[place.arm]}: {quantity(place.quality, unit)} at {quantity(place.cost, cost_unit)}" for place in places
    )
    heading, against = title(quality), name(cost)
    height = max(220, 60 + 18 * len(places))
    drawing = draw(f"{heading} against {against}. {words}.", plot, height=height)
    return Chart(heading, f"against {against}; {better}", drawing)


def _draw_point(axes: Axes, place: Place, *, best: bool, exported: bool) -> None:
    """Draw a point with its interval; an export is a larger diamond, behind the student that may be at the same place."""
    colour = COLOURS["export"] if exported else colour_of(place.arm)
    marker, size, order = ("D", 9, 2) if exported else ("o", 7, 3)
    if place.bounds:
        axes.plot([place.cost] * 2, place.bounds, color=colour, linewidth=1.6)
    fill = colour if best else COLOURS["card"]
    axes.plot(place.cost, place.quality, marker, markersize=size, color=colour, markerfacecolor=fill, zorder=order)


def _draw_titles(axes: Axes, places: Sequence[Place], titles: Mapping[str, str]) -> None:
    """Write the titles in a column on the right, where none hides another, each with a line to its point."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ordered = sorted(places, key=lambda place: place.quality)
    heights = spread([(place.quality - low) / (high - low) for place in ordered], 0.1)
    line = {"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.5, "shrinkB": 5, "relpos": (0, 0.5)}
    for place, height in zip(ordered, heights, strict=True):
        text = shorten(titles[place.arm], 28, placeholder=" …")
        axes.annotate(
            text, (place.cost, place.quality), (1.04, height), textcoords="axes fraction", arrowprops=line, va="center",
            fontsize=10, color=COLOURS["ink"], parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _places(
    grouped: Mapping[str, Mapping[str, Measured]], quality: str, cost: str, subjects: Subjects
) -> Iterator[Place]:
    costs = grouped.get(cost, {})
    for arm, measured in ((arm, grouped[quality][arm]) for arm in arm_order(grouped[quality])):
        stands = subjects.is_trained(arm) or (own_name(cost) == "parameters" and subjects.is_exported(arm))
        own = (
            arm if arm in costs or not stands else "student" if "student" in costs else plain_export(grouped, subjects)
        )
        if own in costs and isfinite(costs[own].mean) and isfinite(measured.mean):
            bounds = measured.bounds
            finite = bounds if bounds and all(map(isfinite, bounds)) else None
            yield Place(arm, costs[own].mean, measured.mean, finite)


def plain_export(grouped: Mapping[str, Mapping[str, Measured]], subjects: Subjects) -> str:
    """Return the exported folder: the export with counted parameters, else the largest; "student" if there is none."""
    sizes = grouped.get(key_of(grouped, "parameters")) or grouped.get(key_of(grouped, "file-size"), {})
    exported = [arm for arm in sizes if subjects.is_exported(arm)]
    return max(exported, key=lambda arm: sizes[arm].mean, default="student")


def front_of(places: Sequence[Place], *, higher: bool, more: bool) -> list[Place]:
    """Return the Pareto front: places that no other equals in both and beats in one."""

    def merit(place: Place) -> tuple[float, float]:
        return (place.quality if higher else -place.quality), (place.cost if more else -place.cost)

    def beaten(one: Place) -> bool:
        own = merit(one)
        return any(
            other != own and other[0] >= own[0] and other[1] >= own[1] for other in (merit(place) for place in places)
        )

    return [place for place in places if not beaten(place)]
