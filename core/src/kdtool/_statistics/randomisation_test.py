"""Fisher's randomisation test of paired differences, which holds also for few items and for skewed ones.

Where two arms are alike, each item might as well have favoured the other one. The test counts, of all ways to turn items
around, those that differ as clearly as the observed one. For tasks that pass or fail this is McNemar's exact test.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdtool._statistics.jackknife import Table

_FINEST = 100
"""Differences are counted in equal parts, a hundredth at least: seeds and samples divide an item so."""
_MOST = 1 << 13
"""The most parts that are counted together. Beyond it sizes are rounded, which favours no arm."""
_MANY = 300
"""Beyond this number of items, only Student's interval decides."""
_ROUNDED = 1e-9


def chance(differences: Sequence[float]) -> float:
    """Return the probability of a sum as far from 0, either way, if signs are due to chance; 0 beyond `_MANY` items."""
    largest = max(map(abs, differences), default=0.0)
    found = [each for each in differences if abs(each) > _ROUNDED * largest]
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
        if all(abs(parts * each - round(parts * each)) < _ROUNDED for each in differences):
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
