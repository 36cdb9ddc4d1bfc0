"""Arms side by side, with 95 % intervals, and the verdict in words.

Differences are paired over items and seeds. A measurement's items are {"item", "sum", "weight"}; its value is
transform(Σ sum / Σ weight), and an arm's is the mean over its seeds. Two arms are compared on the items and seeds that both
have. Ratios (of perplexities, of the teacher) have their intervals on the logarithm. See `_statistics` for the intervals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import exp, inf, log
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from kdtool._contract.evaluation import ArmValue, Comparison, Measurement, Role, Subject
from kdtool._recipe.model import REFERENCE, SELF
from kdtool._statistics import (
    ENOUGH,
    FEWEST,
    Pair,
    Statistic,
    Table,
    Totals,
    arm_interval,
    chance,
    estimate,
    exponential,
    item_differences,
    level_of,
    margins,
    widen_fraction,
)
from kdtool._store.files import json_objects
from kdtool._text.terminal import figure, number, signed_difference

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
        share=_share_of_teacher(tables) if of_teacher and first.higher_is_better and first.unit in _FROM_ZERO else None,
        aside=first.aside,
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
    rows = json_objects(path, item=str, sum=(int, float), weight=(int, float)) if path else ()
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

    It holds 0 wherever there are too few items for a verdict, or the randomisation test sees no difference.
    """
    reach = margins(_difference(about.transform), tables)
    if reach is None:
        return None
    most = inf
    if about.unit == "fraction":
        reach, most = widen_fraction(reach, tables, 1 + abs(difference)), 1.0
    low, high = max(-most, difference - reach[0]), min(most, difference + reach[1])
    # The jackknife is too narrow for a few skewed items: the exact test then decides whether there is a difference at all.
    undecided = len(tables[0][0]) < FEWEST or chance(item_differences(tables)) >= _SIGNIFICANCE
    return (min(low, 0.0), max(high, 0.0)) if undecided else (low, high)


def _share_of_teacher(tables: Sequence[Table]) -> tuple[float, float | None, float | None] | None:
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


_OPPONENTS = {
    "control": "the same student trained without the teacher on equally many tokens",
    "control-time": "the same student trained without the teacher for the same time, the teacher's share included",
    SELF["control"]: "the same student tuned on its own samples, on about as many tokens",
    SELF["control-time"]: "the same student tuned on its own samples for the same time, that of sampling included",
    REFERENCE: "the reference, an existing model",
}
"""Models that the student is compared with in the verdict, in words."""
_ON_POLICY = "the same student trained without the teacher on the same rows, with as many tokens or more"
_ENDED_EARLY = "the same student trained without the teacher on the same rows, each until it got no better"
_NO_VERDICT = "No verdict about distillation: "
_NO_CONTROL = "the run trained no control; add `control: true`."
_NO_ITEMS = "no evaluator measured student and control on the same two items or more."
_NO_PAIR = "Nothing to compare: no evaluator measured two models on the same two items or more."
_ONE_SEED = "With one seed, intervals cover the choice of test items, not the luck of training."
_OUTCOMES = {
    "better": "better",
    "worse": "worse",
    "no evidence of a difference": "not shown to differ",
    "too few items": f"not judged, with fewer than {FEWEST} items,",
}
_FEW = f"a verdict needs {FEWEST} items, and {ENOUGH} show smaller differences."


def verdict(
    comparisons: Sequence[Comparison],
    *,
    on_policy: bool = False,
    ended_early: bool = False,
    has_control: bool = True,
    option: str = "",
) -> str:
    """State against which arms the student is better, worse, or not shown to differ, and its share of the teacher.

    `on_policy`: the student also learned from text that it wrote. `ended_early`: it or the control stopped before all steps.
    `has_control`: the run trained one. `option` sets aside more text for the test.
    """
    control = _ENDED_EARLY if ended_early else _ON_POLICY if on_policy else _OPPONENTS["control"]
    of_student = [comparison for comparison in comparisons if comparison.arm == "student"]
    opponents = [comparison for comparison in of_student if comparison.against in _OPPONENTS]
    controlled = any(comparison.against != REFERENCE for comparison in opponents)
    sentences = [] if controlled else [_NO_VERDICT + (_NO_ITEMS if has_control else _NO_CONTROL)]
    base = [comparison for comparison in of_student if comparison.against == "base"]
    sentences += [f"Against itself before training, the student is {_outcome(base)}."] if base else []
    for arm in dict.fromkeys(comparison.against for comparison in opponents):
        shown = _outcome([comparison for comparison in opponents if comparison.against == arm])
        words = control if arm == "control" else _OPPONENTS[arm]
        sentences.append(f"Against {words}, the distilled student is {shown}.")
    shares = [f"The student reaches {share}." for share in map(_share_in_words, of_student) if share]
    one_seed = [_ONE_SEED] if opponents and all(comparison.seeds == 1 for comparison in opponents) else []
    return " ".join([*sentences, *_several(opponents, option), *shares, *_weakness(of_student), *one_seed])


def side_by_side(comparisons: Sequence[Comparison], option: str = "") -> str:
    """State the outcome for each pair of arms, none of which was trained here; `option` as for `verdict`."""
    sentences = []
    for arm, against in dict.fromkeys((comparison.arm, comparison.against) for comparison in comparisons):
        shown = _outcome(
            [comparison for comparison in comparisons if (comparison.arm, comparison.against) == (arm, against)]
        )
        sentences.append(f"Against {against}, {arm} is {shown}.")
    shares = [f"{comparison.arm}: {_share_in_words(comparison)}." for comparison in comparisons if comparison.share]
    return " ".join([*sentences, *_several(comparisons, option), *shares]) or _NO_PAIR


def _several(comparisons: Sequence[Comparison], option: str) -> list[str]:
    """Return sentences on chance among several comparisons, and on those with too few items."""
    count = sum(comparison.items >= FEWEST for comparison in comparisons)
    chance = f"{100 * (1 - 0.95**count):.0f} % of runs would show one."
    text = f"These are {count} comparisons at the 5 % level each: without any difference, up to {chance}"
    few = f"Measure on more text or tasks{option and f', such as by {option}'}: {_FEW}"
    return [text] * (count > 1) + [few] * (count < len(comparisons))


def _weakness(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a sentence for each metric compared by ratio in which the student has more than twice a teacher's value."""
    return [
        f"In absolute terms the student is weak: its {found.measurement} is {number(found.value)}, that of {found.against} "
        f"{number(found.against_value)}."
        for found in comparisons
        if found.relative and found.against not in _OPPONENTS and found.verdict == "worse" and found.difference > 1
    ]


def _share_in_words(found: Comparison) -> str:
    if found.share is None:
        return ""
    return f"{figure(found.share[0], 'fraction', *found.share[1:])} of {found.against} in {found.measurement}"


def _outcome(comparisons: Sequence[Comparison]) -> str:
    parts = []
    for outcome, words in _OUTCOMES.items():
        named = [_with_interval(found) for found in comparisons if found.outcome == outcome]
        if named:
            *others, last = named
            parts.append(f"{words} in {', '.join(others)} and {last}" if others else f"{words} in {last}")
    return "; ".join(parts)


def _with_interval(found: Comparison) -> str:
    shown = signed_difference(found.difference, *sorted((found.low, found.high)), relative=found.relative)
    return f"{found.measurement} ({shown})"
