"""The exact test of few tasks, on which intervals say too much: Fisher's randomisation test of paired differences.

Where two arms are alike, each task might as well have favoured the other one. Of all ways to turn tasks around, those are
counted that differ as clearly as what was found. Of tasks that pass or fail this is McNemar's test, the exact sign test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb

__all__ = ["chance"]

_FINEST = 100
"""Differences are counted in the same parts of a task, a hundredth at least: seeds and samples divide it so."""
_MANY = 300
"""Of more tasks an interval by Student's distribution says what this test does."""
_ROUNDED = 1e-9


def chance(differences: Sequence[float]) -> float:
    """Return how likely the sum of some differences is as far from 0, either way, where their signs are due to chance.

    0 for so many that nobody needs to count. Where they have no part in common, as pass@k of many samples, it is the least
    that it can be: the chance that all have the same sign.
    """
    found = [each for each in differences if abs(each) > _ROUNDED]
    if len(found) > _MANY:
        return 0.0
    parts = next((n for n in range(1, _FINEST + 1) if all(_is_whole(n * each) for each in found)), None)
    if parts is None:
        return float(min(1.0, 2 / 2 ** len(found)))
    sizes = [round(parts * each) for each in found]
    fewer = min(sum(max(size, 0) for size in sizes), sum(max(-size, 0) for size in sizes))
    return float(min(1.0, 2 * _choices([abs(size) for size in sizes], fewer) / 2 ** len(sizes)))


def _choices(sizes: Sequence[int], most: int) -> int:
    """Return in how many ways some of the sizes, or none, can be chosen that sum to `most` or less."""
    ways = {0: 1}
    for size, count in Counter(sizes).items():
        of_this = [comb(count, number) for number in range(min(count, most // size) + 1)]
        before, ways = ways, {}
        for at, known in before.items():
            for number, more in enumerate(of_this[: (most - at) // size + 1]):
                ways[at + number * size] = ways.get(at + number * size, 0) + known * more
    return sum(ways.values())


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < _ROUNDED
