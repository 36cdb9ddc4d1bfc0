"""Arms side by side: differences paired over items and seeds, and shares of the teacher, with 95 % intervals.

A measurement's items are {"item", "sum", "weight"}; its value is transform(Σ sum / Σ weight), and an arm's is the mean over
its seeds. Two arms are compared on the items and seeds that both have. Ratios (of perplexities, of the teacher) have their
intervals on the logarithm. See `jackknife` for the intervals.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import exp, inf, log
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from kdtool._contract.comparison import ArmValue, Comparison
from kdtool._contract.evaluation import Measurement, Role, Subject
from kdtool._statistics.arm_interval import arm_interval, exponential, level_of, widen_fraction
from kdtool._statistics.jackknife import Pair, Statistic, Table, Totals, estimate, margins
from kdtool._statistics.randomisation_test import chance, item_differences
from kdtool._store.atomic_files import json_lines

Verdict = Literal["better", "worse", "no evidence of a difference"]
BySeed = Mapping[int | None, Measurement]
MeasurementPair = tuple[Measurement, Measurement]
_FROM_ZERO = frozenset({"fraction", "%", "percent"})
"""Units in which twice as much is twice as good, so that a share of the teacher means something."""
_SIGNIFICANCE = 0.05


def arm_of(subject: Subject) -> str:
    """Return the name that all seeds of a subject share."""
    return subject.arm or subject.name


def arm_values(measurements: Sequence[Measurement], subjects: Sequence[Subject]) -> tuple[ArmValue, ...]:
    """Return every arm's value on every measurement: its mean over seeds, with the interval that is shown everywhere."""
    arms = {subject.name: arm_of(subject) for subject in subjects}
    grouped: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        grouped[measurement.name, arms[measurement.subject]].append(measurement)
    made = []
    for (name, arm), seeds in grouped.items():
        first, value = seeds[0], fmean(measurement.value for measurement in seeds)
        low, high = (first.low, first.high) if len(seeds) == 1 else interval(seeds) or (None, None)
        made.append(ArmValue(arm, name, first.unit, first.higher_is_better, value, low, high, len(seeds)))
    return tuple(made)


def compare_all(
    measurements: Sequence[Measurement], subjects: Sequence[Subject], arms: Mapping[str, str]
) -> tuple[list[Comparison], list[str]]:
    """Compare all arms with each other on every measurement that has items for both.

    Args:
        measurements: all of the run.
        subjects: the measured subjects, with role and seed.
        arms: the arm of each subject's name; others are not compared.

    Returns:
        The comparisons, those of the student with its controls first, and a line on each pair that cannot be compared, or by
        some of its seeds only.
    """
    known = {subject.name: subject for subject in subjects if subject.name in arms}
    roles = {arms[name]: subject.role for name, subject in known.items()}
    by: dict[str, dict[str, dict[int | None, Measurement]]] = defaultdict(lambda: defaultdict(dict))
    for measurement in measurements:
        if measurement.items is not None and measurement.subject in known:
            by[measurement.name][arms[measurement.subject]][known[measurement.subject].seed] = measurement
    compared: list[Comparison] = []
    notes: list[str] = []
    for name, by_arm in by.items():
        for arm, against in combinations(sorted(by_arm, key=lambda arm: get_args(Role).index(roles[arm])), 2):
            pairs = list(_pair_by_seed(by_arm[arm], by_arm[against]))
            keys = sorted({key for pair in pairs for key in differing(*pair)})
            if not pairs:
                reason = "they have no seed in common"
            elif keys:
                reason = f"they were measured in different ways: {', '.join(keys)}"
            elif made := compare(arm, against, pairs, of_teacher=roles[against] == "teacher"):
                compared.append(made)
                if seeds := _seeds_apart(by_arm[arm], by_arm[against]):
                    notes.append(f"{name}: {arm} and {against} are compared {seeds}")
                continue
            else:
                reason = "fewer than two items in common count"
            notes.append(f"{name}: {arm} and {against} are not compared, {reason}")
    return sorted(compared, key=lambda c: (roles[c.arm], roles[c.against]) != ("student", "control")), notes


def compare(arm: str, against: str, pairs: Sequence[MeasurementPair], *, of_teacher: bool = False) -> Comparison | None:
    """Compare two arms, one pair of measurements a seed, paired by item; None if fewer than two common items have weight.

    With `of_teacher` the second arm is a teacher: the result has the first one's share of it, if the unit has a zero point.
    """
    first = pairs[0][0]
    names, tables = _tables(pairs)
    value, other = (estimate(level_of(first.transform), [table]) for table in tables)
    bounds = _bounds(first, tables, value - other) if names else None
    if bounds is None:
        return None
    low, high = bounds
    relative = first.transform == "exp"
    verdict: Verdict = "better" if (low > 0) == first.higher_is_better else "worse"
    if low <= 0 <= high:
        verdict = "no evidence of a difference"
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
        verdict=verdict,
        seeds=len(pairs),
        items=len(names),
        share=_share(tables) if of_teacher and first.higher_is_better and first.unit in _FROM_ZERO else None,
    )


def interval(measurements: Sequence[Measurement]) -> tuple[float, float] | None:
    """Return the 95 % interval of one arm's mean, of one measurement a seed; None where items are missing."""
    names, (table,) = _tables([(measurement,) for measurement in measurements])
    return arm_interval(table, measurements[0].unit, measurements[0].transform) if names else None


def differing(one: Measurement, other: Measurement) -> list[str]:
    """Return the settings in which two measurements differ: their values cannot be compared then."""
    keys = {**one.settings, **other.settings}
    return sorted(key for key in keys if one.settings.get(key) != other.settings.get(key))


def read_items(path: Path | None) -> Mapping[str, Pair]:
    """Return a measurement's items: sum and weight by name; none without a file."""
    rows = [json.loads(line) for line in json_lines(path)] if path else []
    return {row["item"]: (row["sum"], row["weight"]) for row in rows}


def _pair_by_seed(one: BySeed, other: BySeed) -> Iterator[MeasurementPair]:
    """Yield pairs of one seed; a subject without seed (a teacher) is paired with every seed of the other."""
    for seed in sorted({*one, *other} - {None}, key=str) or [None]:
        pair = one.get(seed, one.get(None)), other.get(seed, other.get(None))
        if pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]


def _seeds_apart(one: BySeed, other: BySeed) -> str:
    """Return by which seeds two arms are compared, and which only one has; "" if there are none, or an arm has no seeds."""
    alone = one.keys() ^ other.keys()
    if not alone or None in {*one, *other}:
        return ""
    both, rest = (", ".join(map(str, sorted(seeds, key=str))) for seeds in (one.keys() & other.keys(), alone))
    return f"by seed {both}; the other seeds ({rest}) are left out"


def _tables(pairs: Sequence[Sequence[Measurement]]) -> tuple[list[str], list[Table]]:
    """Return the common items, and for each place in the pairs a table of them."""
    read = [[read_items(measurement.items) for measurement in pair] for pair in pairs]
    names = sorted(set.intersection(*(set(items) for pair in read for items in pair)))
    return names, [[[pair[place][name] for name in names] for pair in read] for place in range(len(pairs[0]))]


def _difference(transform: str) -> Statistic:
    level = level_of(transform)
    return lambda totals: level(totals[:1]) - level(totals[1:])


def _bounds(about: Measurement, tables: Sequence[Table], difference: float) -> tuple[float, float] | None:
    """Return the 95 % interval of a difference; None where fewer than two items have weight.

    It holds 0 wherever the randomisation test sees no difference.
    """
    reach = margins(_difference(about.transform), tables)
    if reach is None:
        return None
    most = inf
    if about.unit == "fraction":
        reach, most = widen_fraction(reach, tables, 1 + abs(difference)), 1.0
    low, high = max(-most, difference - reach[0]), min(most, difference + reach[1])
    # The jackknife is too narrow for a few skewed items: the exact test then decides whether there is a difference at all.
    return (min(low, 0.0), max(high, 0.0)) if chance(item_differences(tables)) >= _SIGNIFICANCE else (low, high)


def _share(tables: Sequence[Table]) -> tuple[float, float | None, float | None] | None:
    """Return the first arm's share of the second with its interval; None where the second is at zero."""
    level = level_of("identity")

    def log_ratio(totals: Totals) -> float:
        return log(level(totals[:1])) - log(level(totals[1:]))

    value, other = (estimate(level, [table]) for table in tables)
    if other <= 0:
        return None
    share = value / other
    try:
        reach = margins(log_ratio, tables)
        if reach and max(reach):  # equal items do not show how far others are
            return share, share / exp(reach[0]), share * exp(reach[1])
    except (ValueError, OverflowError):  # all rests on one item: without it there is no ratio
        pass
    return share, None, None
