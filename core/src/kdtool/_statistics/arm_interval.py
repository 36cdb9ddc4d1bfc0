"""The 95 % interval of one arm's value: of a measurement, and of an arm's mean over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, inf, log, sqrt
from statistics import NormalDist
from typing import Literal

from kdtool._statistics.jackknife import Statistic, Table, Totals, estimate, margins, student_t, weighing

_PASS_OR_FAIL = ((0.0, 1.0), (1.0, 1.0))
_NEVER_NEGATIVE = frozenset({"bits per byte", "nats per token", "words", "bytes", "seconds", "tokens/s"})
FEWEST = 12
"""Items that a fraction needs for an interval."""
_NORMAL = NormalDist().inv_cdf(0.975)
_ROUNDED = 1e-9
"""A width of zero where shares are not binary fractions."""


def interval_of(
    items: Iterable[tuple[float, float]], *, unit: str = "", transform: Literal["identity", "exp"] = "identity"
) -> tuple[float, float] | None:
    """Return the 95 % interval of transform(Σ sum / Σ weight), as runs compute it; None for fewer than two items that weigh.

    Student's interval on the jackknife, with Hall's where items are skewed. It ends at 1 for a perplexity ("per token",
    "exp"), and at 0 for bits per byte, nats per token, words, bytes, seconds and tokens/s.

    For a fraction it is Wilson's score interval (JASA 22, 1927): for the number of items where each passes or fails, else
    for the number of independent ones that vary as much (Korn and Graubard, Survey Methodology 24, 1998). Fewer than 12
    items have no interval then, as it would hold nearly every fraction.

    Args:
        items: sum and weight of each document or task.
        unit: "fraction" for shares from 0 to 1, such as of tasks that pass; as in `Measurement`.
        transform: as in `Measurement`.
    """
    return arm_interval([list(items)], unit, transform)


def arm_interval(table: Table, unit: str, transform: str) -> tuple[float, float] | None:
    """Return the interval of an arm's mean over its seeds; arguments as of `interval_of`."""
    if unit == "fraction":
        return _interval_of_fraction(table)
    level = level_of(transform)
    reach = margins(level, [table])
    if reach is None:
        return None
    middle = estimate(level, [table])
    low, high = middle - reach[0], middle + reach[1]
    lowest = 0.0 if unit in _NEVER_NEGATIVE else low
    if transform == "exp":
        middle, low, high = exponential(middle), exponential(low), exponential(high)
        lowest = 1.0 if unit == "per token" else low
    return max(low, lowest) if lowest <= middle else low, high


def widen_fraction(reach: tuple[float, float], tables: Sequence[Table], room: float) -> tuple[float, float]:
    """Return how far the interval of a difference of fractions reaches, where equal items make the jackknife's too short.

    Where n items are all alike, up to a share of 1 − 0.025^(1/n) of others may still differ (Clopper and Pearson, Biometrika
    26, 1934), each by up to `room`, below and above. Tasks that pass or fail have that width in any case: one that goes
    another way makes nothing more certain.
    """
    if max(reach) >= _ROUNDED and not _all_pass_or_fail(tables):
        return reach
    others = float(1 - 0.025 ** (1 / weighing(tables)))
    return max(reach[0], others * room), max(reach[1], others * room)


def level_of(transform: str) -> Statistic:
    """Return the statistic "mean over seeds" of one arm; for "exp" its logarithm, which cannot overflow."""

    def level(totals: Totals) -> float:
        means = [total / weight if weight else 0.0 for total, weight in totals[0]]
        if transform != "exp":
            return sum(means) / len(means)
        most = max(means)
        return most + log(sum(exp(mean - most) for mean in means) / len(means))

    return level


def exponential(exponent: float) -> float:
    """Return the power of e; infinity where it overflows, as after a seed that diverged."""
    try:
        return exp(exponent)
    except OverflowError:
        return inf


def _all_pass_or_fail(tables: Sequence[Table]) -> bool:
    return all(pair in _PASS_OR_FAIL for table in tables for row in table for pair in row)


def _interval_of_fraction(table: Table) -> tuple[float, float] | None:
    """Return Wilson's interval for an effective number of items, each side with the one that its margin stands for.

    Where nearly all places of nearly all items fail, the few that pass hardly show how far items differ. Hall's margin
    is the longer one then; it stands for no fewer items than the places would if all were independent.
    """
    count, level = weighing([table]), level_of("identity")
    student, skewed = margins(level, [table], skewed=False), margins(level, [table])
    if student is None or skewed is None or count < FEWEST:
        return None
    share = estimate(level, [table])
    if len(table) == 1 and _all_pass_or_fail([table]):
        return _wilson(share, count)
    places = max(count, sum(weight for row in table for _, weight in row) / len(table))
    least = min(places, _effective(share, student[0], count))
    low, high = (_wilson(share, max(least, _effective(share, margin, count))) for margin in skewed)
    return low[0], high[1]


def _effective(share: float, margin: float, count: int) -> float:
    """Return of how many independent items, which pass or fail, a share would have that margin."""
    variance = share * (1 - share)
    if margin < _ROUNDED or variance < _ROUNDED:  # all alike: others may still differ
        margin, variance = student_t(count - 1), float(count)
    return variance * (_NORMAL / margin) ** 2


def _wilson(share: float, count: float) -> tuple[float, float]:
    z = _NORMAL
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(max(0.0, share * (1 - share)) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # at 0 and 1 rounding would cross
