"""The forest plot: differences between the student and others with their intervals, a panel per measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import kdtool

from kdtool_reporter_html._charts import inside
from kdtool_reporter_html._numbers import difference, tick
from kdtool_reporter_html._subjects import REFERENCE, title
from kdtool_reporter_html._verdict import condition, figures, footing, has_few_items, scarcity

__all__ = ["ForestPanel", "ForestRow", "forest"]


@dataclass(frozen=True)
class ForestRow:
    """One comparison: positions in percent of the panel's width."""

    against: str
    arm: str
    at: float
    low: float
    high: float
    verdict: str
    text: str
    interval: str


@dataclass(frozen=True)
class ForestPanel:
    """All comparisons of one measurement on a common scale.

    `few`: they have too few items to judge. `zero` is the position of no difference, `ticks` have labels.
    """

    heading: str
    footing: str
    few: bool
    zero: float
    left: str
    right: str
    better: str
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[ForestRow, ...]


def forest(
    comparisons: Sequence[kdtool.Comparison], units: dict[str, str], higher_is_better: dict[str, bool]
) -> list[ForestPanel]:
    """Draw one panel per measurement, with a row for each opponent of the student; those with many items come first."""
    ordered = sorted(comparisons, key=scarcity)
    measurements = list(dict.fromkeys(comparison.measurement for comparison in ordered))
    return [
        _panel(
            measurement,
            [comparison for comparison in comparisons if comparison.measurement == measurement],
            units.get(measurement, ""),
            higher_is_better.get(measurement, False),
        )
        for measurement in measurements
    ]


def _panel(measurement: str, comparisons: Sequence[kdtool.Comparison], unit: str, higher: bool) -> ForestPanel:
    relative = comparisons[0].relative
    edges = [
        edge
        for comparison in comparisons
        for edge in (comparison.low, comparison.high, comparison.difference)
        if isfinite(edge)
    ]
    left, right = min([0.0, *edges]), max([0.0, *edges])
    room = (right - left) * 0.08 or 1.0
    left, right = left - room, right + room

    def at(value: float) -> float:
        return 100 * (min(max(value, left), right) - left) / (right - left)

    def label(mark: float) -> str:
        return "0" if abs(mark) < 1e-12 else tick(difference(mark, unit, relative=relative))

    ticks = tuple((at(mark), label(mark)) for mark in inside(left, right))
    other = "other better" if any(each.against == REFERENCE for each in comparisons) else "control better"
    sides = (other, "student better") if higher else ("student better", other)
    rows = tuple(
        ForestRow(
            against=condition(comparison.against),
            arm=comparison.against,
            at=at(comparison.difference),
            low=at(comparison.low),
            high=at(comparison.high),
            verdict=comparison.verdict,
            text=figures(comparison, unit)[0],
            interval=figures(comparison, unit)[1],
        )
        for comparison in comparisons
    )
    return ForestPanel(
        title(measurement), footing(comparisons), all(map(has_few_items, comparisons)),
        at(0.0), *sides, "right" if higher else "left", ticks, rows,
    )  # fmt: skip
