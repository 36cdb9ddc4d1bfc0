"""Intervals and significance of measured items.

Intervals are 95 % ones, by the jackknife over items and over seeds: a statistic is computed again without each item, then
without each seed. Each end of the interval is √(q²·V_items + t²(S − 1)·V_seeds) away from the statistic, with t the 97.5 %
point of Student's distribution. With q = t(m − 1), where m = (Σw)²/Σw² is the effective number of items, this covers at
least 95 % where both parts are normal (Banerjee, Sankhyā 23, 1961). Where items are skewed, Student's interval ends too
early on their long side; q is then t(m − 1) after Hall's transformation, which removes the skewness. A single seed counts
as fixed: V_seeds is left out.

Significance is Fisher's randomisation test of paired differences, which holds also for few items and for skewed ones. Where
two arms are alike, each item might as well have favoured the other one. The test counts, of all ways to turn items around,
those that differ as clearly as the observed one. For tasks that pass or fail this is McNemar's exact test.

Sources: Miller, The jackknife: a review, Biometrika 61, 1974; Efron and Stein, Annals of Statistics 9, 1981; Hall, On the
removal of skewness by transformation, Journal of the Royal Statistical Society B 54, 1992.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import cbrt, exp, hypot, inf, log, sqrt
from statistics import NormalDist
from typing import Literal

Pair = tuple[float, float]
Table = Sequence[Sequence[Pair]]
"""An arm's sum and weight by seed, then item; all tables of a statistic have the same seeds and items."""
Totals = Sequence[Sequence[Pair]]
"""Sum and weight over items, by table, then seed."""
Statistic = Callable[[Totals], float]
_TAIL = 0.025
_TINY = 1e-300
_ROUNDED = 1e-9


def estimate(statistic: Statistic, tables: Sequence[Table]) -> float:
    """Return the statistic over all items and seeds."""
    return statistic(_totals(tables))


def margins(statistic: Statistic, tables: Sequence[Table], *, skewed: bool = True) -> tuple[float, float] | None:
    """Return how far the statistic's 95 % interval reaches below and above it; None for fewer than two items with weight.

    The interval covers other items, and other seeds where there are several. Unless `skewed`, it is just Student's interval.
    """
    totals, shares = _totals(tables), _shares(tables)
    if weighing(tables) < 2:
        return None
    count, whole = len(shares), statistic(totals)
    influences = [whole - statistic(_without_item(tables, totals, item)) for item in range(count)]
    spread = sqrt((count - 1) / count) * hypot(*influences)
    point = student_t(max(1 / sum(share * share for share in shares) - 1, 1.0))
    seeds = _seed_margin(statistic, totals)
    below, above = _reaches(point, influences) if skewed else (point, point)
    return hypot(below * spread, seeds), hypot(above * spread, seeds)


def weighing(tables: Sequence[Table]) -> int:
    """Return the number of items with weight."""
    return sum(share > 0 for share in _shares(tables))


def _seed_margin(statistic: Statistic, totals: Totals) -> float:
    """Return the part of the half-width that is due to seeds; 0 for one seed."""
    seeds = len(totals[0])
    if seeds < 2:
        return 0.0
    left = [statistic([[*own[:seed], *own[seed + 1 :]] for own in totals]) for seed in range(seeds)]
    mean = sum(left) / seeds
    return student_t(seeds - 1) * sqrt((seeds - 1) / seeds) * hypot(*(value - mean for value in left))


def _reaches(point: float, influences: Sequence[float]) -> tuple[float, float]:
    """Return how many standard errors an interval reaches below and above: Student's, or Hall's where it goes further."""
    skewness = _skewness(influences) / sqrt(len(influences))
    if abs(skewness) < _ROUNDED:
        return point, point

    def invert(value: float) -> float:
        """Invert Hall's g(T) = T + aT²/3 + a²T³/27 + a/6, for a, the skewness over √n."""
        return 3 / skewness * (cbrt(1 + skewness * (value - skewness / 6)) - 1)

    return max(point, invert(point)), max(point, -invert(-point))


def _skewness(values: Sequence[float]) -> float:
    """Return the adjusted skewness of a sample; 0 for fewer than three values, and for equal ones."""
    count, mean = len(values), sum(values) / len(values)
    largest = max(abs(value - mean) for value in values)
    if count < 3 or not largest > _TINY:
        return 0.0
    moved = [(value - mean) / largest for value in values]
    square, cube = (sum(value**power for value in moved) / count for power in (2, 3))
    return sqrt(count * (count - 1)) / (count - 2) * cube / (square * sqrt(square))


@lru_cache(maxsize=1024)
def student_t(degrees: float) -> float:
    """Return the 97.5 % point of Student's distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - _TAIL))


def _totals(tables: Sequence[Table]) -> Totals:
    return [[(sum(pair[0] for pair in row), sum(pair[1] for pair in row)) for row in table] for table in tables]


def _without_item(tables: Sequence[Table], totals: Totals, item: int) -> Totals:
    return [
        [(total[0] - row[item][0], total[1] - row[item][1]) for total, row in zip(own, table, strict=True)]
        for own, table in zip(totals, tables, strict=True)
    ]


def _shares(tables: Sequence[Table]) -> list[float]:
    """Return each item's share of the weight, tables and seeds averaged."""
    rows = [row for table in tables for row in table]
    wholes = [sum(weight for _, weight in row) for row in rows]
    parts = [[weight / whole if whole else 0.0 for _, weight in row] for row, whole in zip(rows, wholes, strict=True)]
    return [sum(column) / len(rows) for column in zip(*parts, strict=True)]


_PASS_OR_FAIL = ((0.0, 1.0), (1.0, 1.0))
_NEVER_NEGATIVE = frozenset({"bits per byte", "nats per token", "words", "bytes", "seconds", "tokens/s"})
FEWEST, ENOUGH = 12, 32
"""Items that a verdict needs, as a fraction for an interval does, and items that show smaller differences, too."""
_NORMAL = NormalDist().inv_cdf(0.975)
_ROUNDED_WIDTH = 1e-9
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
    if max(reach) >= _ROUNDED_WIDTH and not _all_pass_or_fail(tables):
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
    if margin < _ROUNDED_WIDTH or variance < _ROUNDED_WIDTH:  # all alike: others may still differ
        margin, variance = student_t(count - 1), float(count)
    return variance * (_NORMAL / margin) ** 2


def _wilson(share: float, count: float) -> tuple[float, float]:
    z = _NORMAL
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(max(0.0, share * (1 - share)) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # at 0 and 1 rounding would cross


_FINEST = 100
"""Differences are counted in equal parts, a hundredth at least: seeds and samples divide an item so."""
_MOST = 1 << 13
"""The most parts that are counted together. Beyond it sizes are rounded, which favours no arm."""
_MANY = 300
"""Beyond this number of items, only Student's interval decides."""
_ROUNDED_PART = 1e-9


def chance(differences: Sequence[float]) -> float:
    """Return the probability of a sum as far from 0, either way, if signs are due to chance; 0 beyond `_MANY` items."""
    largest = max(map(abs, differences), default=0.0)
    found = [each for each in differences if abs(each) > _ROUNDED_PART * largest]
    if len(found) > _MANY:
        return 0.0
    sizes = _whole_sizes([each / largest for each in found])
    fewer = min(sum(max(size, 0) for size in sizes), sum(max(-size, 0) for size in sizes))
    return float(min(1.0, 2 * _choices([abs(size) for size in sizes], fewer) / 2 ** len(sizes)))


def item_differences(tables: Sequence[Table]) -> list[float]:
    """Return each item's part in the difference of two arms, seeds together: more seeds of an item are not more items.

    Where an item weighs the same in both arms this is the difference of its sums.
    """
    parts = [0.0] * len(tables[0][0])
    for rows in zip(*tables, strict=True):
        weights = [sum(weight for _, weight in row) or 1.0 for row in rows]
        means = [sum(total for total, _ in row) / weight for row, weight in zip(rows, weights, strict=True)]
        middle, scale = sum(means) / 2, sum(weights) / 2
        for sign, row, whole in zip((1, -1), rows, weights, strict=True):
            for item, (total, weight) in enumerate(row):
                parts[item] += sign * scale / whole * (total - middle * weight)
    return parts


def _whole_sizes(differences: Sequence[float]) -> list[int]:
    """Return whole numbers in the proportions of the differences, rounded where these have no common part."""
    for parts in range(1, _FINEST + 1):
        if all(abs(parts * each - round(parts * each)) < _ROUNDED_PART for each in differences):
            break
    else:
        parts = _MOST
    most = _MOST / (sum(map(abs, differences)) or 1.0)
    return [round(min(parts, most) * each) for each in differences]


def _choices(sizes: Sequence[int], most: int) -> int:
    """Return in how many ways some of the sizes, or none, can be chosen that sum to `most` or less.

    The ways to reach each sum are the digits of one large number, in a base that none of them reaches.
    """
    bits = len(sizes) + 2
    ways, kept = 1, (1 << bits * (most + 1)) - 1
    for size in sizes:
        ways = (ways + (ways << bits * size)) & kept
    return ways % ((1 << bits) - 1)  # the sum of the digits
