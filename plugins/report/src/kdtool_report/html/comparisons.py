"""Comparisons of the student with others: all pairs with intervals, and the forest plot.

The verdict's words are kdtool's. The forest plot has a panel per measurement, with the differences between the student and
others and their intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import kdtool

from kdtool_report.html.charts import inside
from kdtool_report.html.wording import REFERENCE, Subjects, difference, percent, span, tick, title

_MANY = 30
"""Minimum number of items to come first."""
FEW = "too few items"
"""Outcome of comparisons that are not judged."""


@dataclass(frozen=True)
class PairRow:
    """One comparison in words and figures; `share` of the teacher's value, "" for none."""

    measurement: str
    arm: str
    against: str
    text: str
    interval: str
    verdict: str
    share: str
    footing: str


def figures(comparison: kdtool.Comparison, unit: str) -> tuple[str, str]:
    """Return a difference and its interval, with the decimals that the interval's width justifies."""
    half = (comparison.high - comparison.low) / 2
    text, low, high = (
        difference(value, unit, relative=comparison.relative, spread=half)
        for value in (comparison.difference, comparison.low, comparison.high)
    )
    return text, span(low, high)


def with_controls(comparisons: Sequence[kdtool.Comparison], subjects: Subjects) -> list[kdtool.Comparison]:
    """Return the comparisons of the student with its controls, which show whether distillation helped."""
    return [
        comparison for comparison in comparisons
        if comparison.arm == "student" and subjects.is_trained("student") and subjects.is_trained(comparison.against)
    ]  # fmt: skip


def pairs(comparisons: Sequence[kdtool.Comparison], units: dict[str, str], subjects: Subjects) -> list[PairRow]:
    """Tabulate all pairs of arms, measurement by measurement, those with many items first."""
    ordered = sorted(comparisons, key=lambda comparison: (scarcity(comparison), comparison.measurement))
    return [_pair(comparison, units.get(comparison.measurement, ""), subjects) for comparison in ordered]


def scarcity(comparison: kdtool.Comparison) -> int:
    """Return a sort key that puts comparisons with many items first."""
    return 0 if comparison.items >= _MANY else 2 if comparison.outcome == FEW else 1


def _pair(comparison: kdtool.Comparison, unit: str, subjects: Subjects) -> PairRow:
    share = ""
    if comparison.share is not None:
        ratio, low, high = comparison.share
        half = None if low is None or high is None else (high - low) / 2
        share = percent(ratio, spread=half)
        share += (
            "" if low is None or high is None else f" ({span(percent(low, spread=half), percent(high, spread=half))})"
        )
    return PairRow(
        title(comparison.measurement), subjects.title(comparison.arm), subjects.title(comparison.against),
        *figures(comparison, unit), comparison.outcome, share, footing([comparison]),
    )  # fmt: skip


def footing(comparisons: Sequence[kdtool.Comparison]) -> str:
    """Return the numbers of items and seeds that comparisons rest on, in words."""
    items, seeds = (sorted({getattr(comparison, key) for comparison in comparisons}) for key in ("items", "seeds"))
    of_items = f"{items[0]}" if len(items) == 1 else f"{items[0]} to {items[-1]}"
    of_seeds = kdtool.count_of(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]} seeds"
    return f"{of_items} items, {of_seeds}"


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
    comparisons: Sequence[kdtool.Comparison],
    units: dict[str, str],
    higher_is_better: dict[str, bool],
    subjects: Subjects,
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
            subjects,
        )
        for measurement in measurements
    ]


def _panel(
    measurement: str, comparisons: Sequence[kdtool.Comparison], unit: str, higher: bool, subjects: Subjects
) -> ForestPanel:
    relative = comparisons[0].relative
    marks = [mark for each in comparisons for mark in (each.low, each.high, each.difference)]
    edges = [mark for mark in marks if isfinite(mark)]
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
            against=subjects.title(comparison.against),
            arm=comparison.against,
            at=at(comparison.difference),
            low=at(comparison.low),
            high=at(comparison.high),
            verdict=comparison.outcome,
            text=figures(comparison, unit)[0],
            interval=figures(comparison, unit)[1],
        )
        for comparison in comparisons
    )
    return ForestPanel(
        title(measurement), footing(comparisons), all(each.outcome == FEW for each in comparisons),
        at(0.0), *sides, "right" if higher else "left", ticks, rows,
    )  # fmt: skip
