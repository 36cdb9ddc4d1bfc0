"""The randomisation test of paired differences (Fisher), which holds also for few items and for skewed ones.

Where two arms are alike, each item might as well have favoured the other one. Of all ways to turn items around, those are
counted that differ as clearly as what was found. Of tasks that pass or fail this is McNemar's test, the exact sign test.
"""

from __future__ import annotations

from collections.abc import Sequence

_FINEST = 100
"""Differences are counted in the same parts of an item, a hundredth at least: seeds and samples divide it so."""
_MOST = 1 << 13
"""The most parts that are counted together. Of more, sizes are rounded to so many; rounding does not favour an arm."""
_MANY = 300
"""Of more items an interval by Student's distribution says what this test does."""
_ROUNDED = 1e-9


def chance(differences: Sequence[float]) -> float:
    """Return how likely the sum of some differences is as far from 0, either way, where their signs are due to chance.

    0 for so many that nobody needs to count.
    """
    largest = max(map(abs, differences), default=0.0)
    found = [each for each in differences if abs(each) > _ROUNDED * largest]
    if len(found) > _MANY:
        return 0.0
    sizes = _sizes([each / largest for each in found])
    fewer = min(sum(max(size, 0) for size in sizes), sum(max(-size, 0) for size in sizes))
    return float(min(1.0, 2 * _choices([abs(size) for size in sizes], fewer) / 2 ** len(sizes)))


def _sizes(differences: Sequence[float]) -> list[int]:
    """Return whole numbers that are to each other as the differences are."""
    parts: float | None = next(
        (n for n in range(1, _FINEST + 1) if all(_is_whole(n * each) for each in differences)), None
    )
    whole = sum(map(abs, differences))
    if parts is None or parts * whole > _MOST:
        parts = _MOST / whole
    return [round(parts * each) for each in differences]


def _choices(sizes: Sequence[int], most: int) -> int:
    """Return in how many ways some of the sizes, or none, can be chosen that sum to `most` or less.

    The ways to reach each sum are the digits of one large number, in a base that none of them reaches.
    """
    bits = len(sizes) + 2
    ways, kept = 1, (1 << bits * (most + 1)) - 1
    for size in sizes:
        ways = (ways + (ways << bits * size)) & kept
    return ways % ((1 << bits) - 1)  # the sum of the digits


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < _ROUNDED
