"""Arms side by side: differences paired over items and seeds, and shares of the teacher, with 95 % intervals.

A measurement's items are {"item", "sum", "weight"}; its value is transform(Σ sum / Σ weight), and an arm's is the mean over
its seeds. Two arms are compared on the items and seeds that both have, so that what is hard for both does not count. Ratios
(of perplexities, of the teacher) have their intervals on the logarithm. `jackknife` says what the intervals cover.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import exp, inf, log
from pathlib import Path
from typing import Literal

from kdtool._contract.evaluation import Measurement, Subject
from kdtool._contract.reporting import Comparison
from kdtool._errors import PluginError
from kdtool._statistics.arm_interval import arm_interval, exponential, level_of, wide_enough
from kdtool._statistics.jackknife import Pair, Statistic, Table, estimate, margins
from kdtool._statistics.randomisation_test import chance
from kdtool._store.atomic_files import json_lines

Verdict = Literal["better", "worse", "no evidence of a difference"]
Items = Mapping[str, Pair]
BySeed = Mapping[int | None, Measurement]
_FROM_ZERO = frozenset({"fraction", "%", "percent"})
"""Units in which twice as much is twice as good, so that a share of the teacher means something."""
_ERROR = 0.05
"""Significance level."""
_ROLES = ("artifact", "student", "control", "teacher")


def compare_all(
    measurements: Sequence[Measurement], subjects: Sequence[Subject], arms: Mapping[str, str]
) -> tuple[list[Comparison], list[str]]:
    """Compare all arms with each other on every measurement that has items for both.

    Args:
        measurements: all of the run.
        subjects: by which a measurement's subject is known to be of a role and a seed.
        arms: the arm of each subject's name; others are not compared.

    Returns:
        The comparisons, those of the student with its controls first, and a line on each pair that cannot be.
    """
    known = {subject.name: subject for subject in subjects}
    roles = {arms[name]: subject.role for name, subject in known.items() if name in arms}
    by: dict[str, dict[str, dict[int | None, Measurement]]] = defaultdict(lambda: defaultdict(dict))
    for found in measurements:
        if found.items is not None and found.subject in known and found.subject in arms:
            by[found.name][arms[found.subject]][known[found.subject].seed] = found
    compared: list[Comparison] = []
    notes: list[str] = []
    for name, by_arm in by.items():
        for arm, against in combinations(sorted(by_arm, key=lambda arm: _ROLES.index(roles[arm])), 2):
            pairs = list(_pairs(by_arm[arm], by_arm[against]))
            if reason := _incomparable(pairs):
                notes.append(f"{name}: {arm} and {against} are not compared, they {reason}")
            elif made := compare(arm, against, pairs, of_teacher=roles[against] == "teacher"):
                compared.append(made)
            else:
                notes.append(f"{name}: {arm} and {against} are not compared, it takes two items at least that count")
    first = ("student", "control")
    return sorted(compared, key=lambda c: (roles[c.arm], roles[c.against]) != first), notes


def compare(
    arm: str, against: str, pairs: Sequence[tuple[Measurement, Measurement]], *, of_teacher: bool = False
) -> Comparison | None:
    """Compare two arms, one pair of measurements a seed, paired by item; None where there are fewer than two items.

    Args:
        arm: whose measurements are the first of each pair.
        against: whose are the second.
        pairs: a pair a seed.
        of_teacher: the second arm is a teacher, whose share is asked for where it means something.

    Raises:
        PluginError: the pairs share no item.
    """
    first = pairs[0][0]
    names, tables = _tables(pairs)
    if not names:
        remedy = "an evaluator gives the same item ids for every subject"
        raise PluginError(f"the measurement {first.name!r} of {arm} and {against} shares no items; {remedy}")
    value, other = (estimate(level_of(first.transform), [table]) for table in tables)
    bounds = _bounds(first, tables, value - other)
    if bounds is None:
        return None
    low, high = bounds
    relative = first.transform == "exp"
    return Comparison(
        measurement=first.name,
        arm=arm,
        against=against,
        value=exponential(value) if relative else value,
        against_value=exponential(other) if relative else other,
        difference=exponential(value - other) - 1 if relative else value - other,
        low=exponential(low) - 1 if relative else low,
        high=exponential(high) - 1 if relative else high,
        relative=relative,
        verdict=_verdict(low, high, higher_is_better=first.higher_is_better),
        seeds=len(pairs),
        items=len(names),
        share=_share(tables) if of_teacher and first.higher_is_better and first.unit in _FROM_ZERO else None,
    )


def interval(measurements: Sequence[Measurement]) -> tuple[float, float] | None:
    """Return the 95 % interval of one arm's mean over its seeds; None where items are missing.

    Args:
        measurements: one a seed.
    """
    names, (table,) = _tables([(measurement,) for measurement in measurements])
    return arm_interval(table, measurements[0].unit, measurements[0].transform) if names else None


def differing(one: Measurement, other: Measurement) -> list[str]:
    """Return the settings in which two measurements differ: then their values are no comparison."""
    keys = {**one.settings, **other.settings}
    return sorted(key for key in keys if one.settings.get(key) != other.settings.get(key))


def read_items(path: Path | None) -> Items:
    """Return a measurement's items: sum and weight by name; none where there is no file."""
    if path is None:
        return {}
    rows = [json.loads(line) for line in json_lines(path)]
    return {row["item"]: (row["sum"], row["weight"]) for row in rows}


def _incomparable(pairs: Sequence[tuple[Measurement, Measurement]]) -> str:
    """Say why two arms cannot be compared; "" where they can."""
    if not pairs:
        return "have no seed in common"
    if keys := sorted({key for pair in pairs for key in differing(*pair)}):
        return f"were measured in different ways: {', '.join(keys)}"
    return "" if _tables(pairs)[0] else "have no item in common"


def _pairs(one: BySeed, other: BySeed) -> Iterator[tuple[Measurement, Measurement]]:
    """Pair by seed; what has no seed (a teacher) stands beside every seed of the other."""
    for seed in sorted({*one, *other} - {None}, key=str) or [None]:
        pair = one.get(seed, one.get(None)), other.get(seed, other.get(None))
        if pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]


def _tables(pairs: Sequence[Sequence[Measurement]]) -> tuple[list[str], list[Table]]:
    """Return the items that all have, and for each place in the pairs a table of them."""
    read = [[read_items(measurement.items) for measurement in pair] for pair in pairs]
    names = sorted(set.intersection(*(set(items) for pair in read for items in pair)))
    return names, [[[pair[place][name] for name in names] for pair in read] for place in range(len(pairs[0]))]


def _difference(transform: str) -> Statistic:
    level = level_of(transform)
    return lambda totals: level(totals[:1]) - level(totals[1:])


def _bounds(about: Measurement, tables: Sequence[Table], difference: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a difference; None where fewer than two items weigh anything.

    It holds 0 wherever the randomisation test sees no difference.
    """
    reach = margins(_difference(about.transform), tables)
    if reach is None:
        return None
    most = inf
    if about.unit == "fraction":
        room = 1 + abs(difference)
        reach, most = wide_enough(reach, tables, (room, room)), 1.0
    low, high = max(-most, difference - reach[0]), min(most, difference + reach[1])
    return (min(low, 0.0), max(high, 0.0)) if chance(_in_favour(tables)) >= _ERROR else (low, high)


def _share(tables: Sequence[Table]) -> tuple[float, float | None, float | None] | None:
    """Return the first arm's share of the second with its interval; none where the second is at zero."""
    level = level_of("identity")
    value, other = (estimate(level, [table]) for table in tables)
    if other <= 0:
        return None
    try:
        reach = margins(lambda totals: log(level(totals[:1])) - log(level(totals[1:])), tables)
        # items that are all alike do not tell how far others are
        bounds = (
            (value / other / exp(reach[0]), value / other * exp(reach[1])) if reach and max(reach) else (None, None)
        )
    except (ValueError, OverflowError):  # all rests on one item: without it there is no ratio
        bounds = None, None
    return value / other, *bounds


def _in_favour(tables: Sequence[Table]) -> list[float]:
    """Return each item's part in the difference, seeds together: more seeds and samples of an item are not more items.

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


def _verdict(low: float, high: float, *, higher_is_better: bool) -> Verdict:
    if low <= 0 <= high:
        return "no evidence of a difference"
    return "better" if (low > 0) == higher_is_better else "worse"
