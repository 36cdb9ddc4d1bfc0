"""Axes: ticks, and positions of values in percent of the drawing's width or height."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10

__all__ = ["Axis", "Tick", "axis"]


_RESOLVED = 1e-9
"""Relative difference that is drawn as zero: ticks within it would be rounding errors."""
_SMALLEST = 1e-300
"""Smallest magnitude that can be divided without underflow."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in percent and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`, logarithmic or not, with ticks."""

    low: float
    high: float
    logarithmic: bool
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Return the position of a value, 0 to 100; values outside are clipped."""
        return _place(value, self.low, self.high, self.logarithmic)


def axis(
    values: Iterable[float],
    *,
    include_zero: bool = False,
    may_be_logarithmic: bool = False,
    most: int = 6,
    label: Callable[[float], str] | None = None,
) -> Axis:
    """Choose a scale that holds all finite values, with at most `most` ticks at round numbers."""
    finite = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if include_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    logarithmic = may_be_logarithmic and low > 0 and high / low > 8
    largest = max(abs(low), abs(high))
    if high - low <= max(_RESOLVED * largest, _SMALLEST):
        margin = largest / 10 if largest > _SMALLEST else 1.0
        low, high = low - margin, high + margin
    marks = _round_powers(low, high, most) if logarithmic else _round_steps(low, high, most)
    show = label or _plain(marks)
    ticks = tuple(Tick(_place(mark, low, high, logarithmic), show(mark)) for mark in marks)
    return Axis(low, high, logarithmic, ticks)


def _place(value: float, low: float, high: float, logarithmic: bool) -> float:
    clipped = min(max(value, low), high)
    if logarithmic:
        return 100 * (log10(clipped) - log10(low)) / (log10(high) - log10(low))
    return 100 * (clipped - low) / (high - low)


def _round_steps(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    return [index * step for index in range(first, floor(high / step + 1e-9) + 1)]


def _round_powers(low: float, high: float, most: int) -> list[float]:
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        marks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [mark for mark in marks if low <= mark <= high]
        if len(inside) <= most:
            return inside
    return inside[:: ceil(len(inside) / most)]


def _plain(marks: list[float]) -> Callable[[float], str]:
    """Return a formatter with as many decimals as the ticks need to differ."""

    def show(mark: float) -> str:
        return f"{mark:,.{places}f}".replace(",", "\u202f").replace("-", "−")

    smallest = min((abs(b - a) for a, b in pairwise(marks)), default=abs(marks[0]) if marks else 1)
    places = max(0, -floor(log10(smallest) + 1e-9)) if smallest else 0
    return show
