"""95 % intervals of statistics of items and seeds, by the jackknife over each.

A statistic is computed again without each item, then without each seed. Each end of the interval is
√(q²·V_items + t²(S − 1)·V_seeds) away from the statistic, with t the 97.5 % point of Student's distribution. With
q = t(m − 1), where m = (Σw)²/Σw² is the effective number of items, this covers at least 95 % where both parts are normal
(Banerjee, Sankhyā 23, 1961). Where items are skewed, Student's interval ends too early on their long side; q is then
t(m − 1) after Hall's transformation, which removes the skewness. A single seed counts as fixed: V_seeds is left out.

Sources: Miller, The jackknife: a review, Biometrika 61, 1974; Efron and Stein, Annals of Statistics 9, 1981; Hall, On the
removal of skewness by transformation, Journal of the Royal Statistical Society B 54, 1992.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import cbrt, hypot, sqrt

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
