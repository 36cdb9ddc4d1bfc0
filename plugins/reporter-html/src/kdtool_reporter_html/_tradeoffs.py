"""Quality against size and against speed: one point per subject, with the Pareto front.

A measurement of quality has a chart for each cost known for at least two of its subjects: file size, else parameters, and
decode speed. Controls have the student's shape, so an evaluator of cost may measure one for all: an arm without a cost uses
the student's, or that of its exported folder. Exports have the student's parameters; `per_parameter` divides scores by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import kdtool

from kdtool_reporter_html._numbers import interval, quantity, tick
from kdtool_reporter_html._scales import Axis, Tick, axis
from kdtool_reporter_html._subjects import Measured, Subjects, arm_order, key_of, name, own_name, title
from kdtool_reporter_html._summary import COST_UNITS, Cell, MeasurementRow, Table

__all__ = ["Point", "Tradeoff", "per_parameter", "tradeoffs"]

_COSTS = (("file-size", "parameters"), ("decode-speed",))
"""Costs on the horizontal axis: of each group, the first that was measured."""
_MOST = 4
"""Maximum number of quality measurements drawn, in the order of measuring."""
_FROM_ZERO = frozenset({"fraction", "%", "percent"})
"""Ratio-scale units, in which a score can be divided."""


@dataclass(frozen=True)
class Point:
    """One subject: positions in percent, `low` and `high` of its interval; `best` is true on the Pareto front."""

    arm: str
    title: str
    x: float
    y: float
    low: float | None
    high: float | None
    best: bool


@dataclass(frozen=True)
class Tradeoff:
    """One chart. `front` is an SVG polyline through the best points; `better` names the best corner."""

    heading: str
    against: str
    better: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    front: str
    summary: str


@dataclass(frozen=True)
class _Place:
    arm: str
    cost: float
    quality: float
    bounds: tuple[float, float] | None


def tradeoffs(measurements: Sequence[kdtool.Measurement], subjects: Subjects) -> list[Tradeoff]:
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


def _divide(place: _Place, points: float) -> Cell:
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
) -> Tradeoff | None:
    places = list(_places(grouped, quality, cost, subjects))
    if len({place.cost for place in places}) < 2:
        return None
    (unit, higher), (cost_unit, more) = units[quality], units[cost]
    x = _wider([place.cost for place in places], cost_unit)
    edges = [edge for place in places for edge in (place.quality, *(place.bounds or ()))]
    room = (max(edges) - min(edges)) * 0.06
    y = axis([min(edges) - room, max(edges) + room], most=5, label=lambda mark: tick(quantity(mark, unit)))
    front = _front(places, higher=higher, more=more)
    joined = sorted(front, key=lambda place: place.cost)
    return Tradeoff(
        heading=title(quality),
        against=name(cost),
        better=f"{'upper' if higher else 'lower'} {'right' if more else 'left'}",
        x_label=", ".join([name(cost), *([cost_unit] * (cost_unit == "tokens/s")), *(["logarithmic"] * x.logarithmic)]),
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        points=tuple(_point(place, subjects.title(place.arm), x, y, best=place in front) for place in places),
        front=" ".join(f"{x.at(place.cost) * 10:.0f},{1000 - y.at(place.quality) * 10:.0f}" for place in joined),
        summary="; ".join(
            f"{subjects.title(place.arm)}: {quantity(place.quality, unit)} at {quantity(place.cost, cost_unit)}"
            for place in places
        ),
    )


def _places(
    grouped: Mapping[str, Mapping[str, Measured]], quality: str, cost: str, subjects: Subjects
) -> Iterator[_Place]:
    costs = grouped.get(cost, {})
    for arm, measured in ((arm, grouped[quality][arm]) for arm in arm_order(grouped[quality])):
        stands = subjects.is_trained(arm) or (own_name(cost) == "parameters" and subjects.is_exported(arm))
        own = (
            arm if arm in costs or not stands else "student" if "student" in costs else _plain_export(grouped, subjects)
        )
        if own in costs and isfinite(costs[own].mean) and isfinite(measured.mean):
            bounds = measured.bounds
            finite = bounds if bounds and all(map(isfinite, bounds)) else None
            yield _Place(arm, costs[own].mean, measured.mean, finite)


def _plain_export(grouped: Mapping[str, Mapping[str, Measured]], subjects: Subjects) -> str:
    """Return the exported folder: the export with counted parameters, else the largest; "student" if there is none."""
    sizes = grouped.get(key_of(grouped, "parameters")) or grouped.get(key_of(grouped, "file-size"), {})
    exported = [arm for arm in sizes if subjects.is_exported(arm)]
    return max(exported, key=lambda arm: sizes[arm].mean, default="student")


def _wider(values: Sequence[float], unit: str) -> Axis:
    """Return an axis with margins, so that points and their names are inside."""
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > 8
    room = (high - low) * 0.08
    edges = [low / 1.3, high * 1.3] if logarithmic else [max(low - room, 0.0) if low >= 0 else low - room, high + room]
    return axis(edges, may_be_logarithmic=logarithmic, most=5, label=lambda mark: tick(quantity(mark, unit)))


def _front(places: Sequence[_Place], *, higher: bool, more: bool) -> list[_Place]:
    """Return the Pareto front: places that no other equals in both and beats in one."""

    def merit(place: _Place) -> tuple[float, float]:
        return (place.quality if higher else -place.quality), (place.cost if more else -place.cost)

    def beaten(one: _Place) -> bool:
        own = merit(one)
        return any(
            other != own and other[0] >= own[0] and other[1] >= own[1] for other in (merit(place) for place in places)
        )

    return [place for place in places if not beaten(place)]


def _point(place: _Place, called: str, x: Axis, y: Axis, *, best: bool) -> Point:
    low, high = (y.at(edge) for edge in place.bounds) if place.bounds else (None, None)
    return Point(place.arm, called, x.at(place.cost), y.at(place.quality), low, high, best)
