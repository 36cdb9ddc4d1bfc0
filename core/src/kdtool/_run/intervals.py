"""95 % intervals of what is computed from items and seeds, by the jackknife over each.

A table holds one arm's sums and weights by seed and item. A statistic of tables is computed anew without each item, then
without each seed. The half-width is √(t²(m − 1)·V_items + t²(S − 1)·V_seeds), with t the 97.5 % point of Student's
distribution and m = (Σw)²/Σw² the number of items that weigh as much as they do. It covers at least 95 % where both parts
are normal (Banerjee, Sankhyā 23, 1961): a sum of variances with its own degrees of freedom (Satterthwaite), or a bootstrap
of two or three seeds, covers far less. With one seed V_seeds is left out: that seed is then fixed, no sample.

Sources: Miller, The jackknife: a review, Biometrika 61, 1974; Efron and Stein, Annals of Statistics 9, 1981.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import exp, lgamma, log, log1p, sqrt

__all__ = ["Statistic", "Table", "Totals", "estimate", "half_width", "student_t"]

Pair = tuple[float, float]
Table = Sequence[Sequence[Pair]]
"""Sum and weight by seed, then item; all tables of a statistic have the same seeds and items."""
Totals = Sequence[Sequence[Pair]]
"""Sum and weight over items, by table, then seed."""
Statistic = Callable[[Totals], float]

_TAIL = 0.025
_TINY = 1e-300


def estimate(statistic: Statistic, tables: Sequence[Table]) -> float:
    """Return the statistic over all items and seeds."""
    return statistic(_totals(tables))


def half_width(statistic: Statistic, tables: Sequence[Table]) -> float | None:
    """Return half the width of the statistic's 95 % interval; None where fewer than two items weigh anything.

    Items are a sample of those that might have been asked, and seeds, where there are several, of those that might have
    been trained with.
    """
    totals, shares = _totals(tables), _shares(tables)
    if sum(share > 0 for share in shares) < 2:
        return None
    count, whole = len(shares), statistic(totals)
    without = (statistic(_without_item(tables, totals, item)) for item in range(count))
    items = (count - 1) / count * sum((value - whole) ** 2 for value in without)
    weighing = 1 / sum(share * share for share in shares)
    squared = student_t(max(weighing - 1, 1.0)) ** 2 * items
    seeds = len(tables[0])
    if seeds > 1:
        left = [statistic([[*own[:seed], *own[seed + 1 :]] for own in totals]) for seed in range(seeds)]
        mean = sum(left) / seeds
        squared += student_t(seeds - 1) ** 2 * (seeds - 1) / seeds * sum((value - mean) ** 2 for value in left)
    return sqrt(squared)


@lru_cache(maxsize=1024)
def student_t(degrees: float) -> float:
    """Return the 97.5 % point of Student's distribution, found by halving.

    P(T > x) = I(ν/(ν + x²); ν/2, 1/2)/2 with the regularised incomplete beta function I.
    """
    low, high = 0.0, 13.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        tail = _beta(degrees / 2, 0.5, degrees / (degrees + middle * middle)) / 2
        low, high = (middle, high) if tail > _TAIL else (low, middle)
    return (low + high) / 2


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


def _beta(a: float, b: float, x: float) -> float:
    """Return I(x; a, b) by its continued fraction (Abramowitz and Stegun 26.5.8, evaluated as Lentz does)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    upper, lower = 1.0, 1 / (1 - (a + b) * x / (a + 1) or _TINY)
    found = lower
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            upper, lower = 1 + term / upper or _TINY, 1 / (1 + term * lower or _TINY)
            found *= upper * lower
        if abs(upper * lower - 1) < 1e-14:
            break
    return front * found
