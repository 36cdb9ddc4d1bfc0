"""Comparisons of the student with others: the verdict in words, all pairs with intervals, and the forest plot.

The forest plot has a panel per measurement, with the differences between the student and others and their intervals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import kdtool

from kdtool_report.html.charts import inside
from kdtool_report.html.wording import (
    ARMS,
    REFERENCE,
    SAME_ROWS,
    Grouped,
    Subjects,
    difference,
    is_teacher,
    key_of,
    name,
    percent,
    quantity,
    span,
    tick,
    title,
)

_BEGINNINGS = {
    "pays": "Distillation pays",
    "costs": "It does not pay",
    "mixed": "The result is mixed",
    "likeness": "Only likeness to the teacher differs",
    "repetition": "Only repetition of training text differs",
    "asides": "Only likeness to the teacher and repetition of training text differ",
    "open": "No difference is shown",
}
"""Beginning of the headline's sentence on each outcome, in the order of these sentences."""
_ASIDES = {
    "likeness": (
        re.compile(r"(^|\.)(kl-to-|top-1-agreement)"), "closer to the teacher", "farther from the teacher"
    ),
    "repetition": (
        re.compile(r"(^|\.)(memorised|longest-copy)$"),
        "less prone to repeat training text", "more prone to repeat training text",
    ),
}  # fmt: skip
"""Measurements that are not abilities (likeness to the teacher, repetition of training text), by the outcome if nothing else
differs, with phrases for better and worse. An evaluator's name may precede theirs; a teacher's name contains dots."""
_MANY, _FEW = 30, 12
"""Minimum number of items to come first, and minimum not to be folded."""
_AGAINST = {
    "control": "at equal tokens",
    SAME_ROWS: "on the same rows",
    "control-time": "at equal wall time",
    "control-self": "against self-distillation at equal tokens",
    "control-self-time": "against self-distillation at equal wall time",
    REFERENCE: "against the reference",
}


@dataclass(frozen=True)
class Judgement:
    """Result of the comparison with one control.

    `outcome` is "pays", "costs", "mixed" or "open". It is "likeness", "repetition" or, for both, "asides" if only those
    differ. `claim` names the differences.
    """

    control: str
    outcome: str
    claim: str


@dataclass(frozen=True)
class PairRow:
    """One comparison in words and figures; `share` of the teacher's value, "" for none."""

    measurement: str
    arm: str
    against: str
    text: str
    interval: str
    verdict: str
    share: str
    footing: str


def judgements(comparisons: Sequence[kdtool.Comparison]) -> list[Judgement]:
    """Judge each control in turn, from comparisons with controls."""
    names = {comparison.against for comparison in comparisons}
    return [
        _judge(control, [comparison for comparison in comparisons if comparison.against == control])
        for control in [arm for arm in ARMS if arm in names] + sorted(names - set(ARMS))
    ]


def where_it_pays(verdicts: Sequence[Judgement], seeds: int, *, controlled: bool = True) -> str:
    """Summarise in a few sentences where distillation pays; `controlled` is true if a control was trained."""
    if not verdicts:
        return (
            "No verdict: no evaluator compared the student with its control. Add one, such as `perplexity: {}`."
            if controlled
            else "No verdict: this run trained no control. Add `control: {match: tokens}` to the recipe to compare."
        )
    sentences = []
    outcomes = {item.outcome for item in verdicts}
    if "pays" not in outcomes:
        everywhere = " that holds on every measurement" if "mixed" in outcomes else ""
        sentences.append(f"This run shows no gain from distillation{everywhere}.")
    for outcome, beginning in _BEGINNINGS.items():
        claims: dict[str, list[str]] = {}
        for item in verdicts:
            if item.outcome == outcome:
                claims.setdefault(item.claim, []).append(condition(item.control))
        sentences += [f"{beginning} {_join(conditions)}: {claim}." for claim, conditions in claims.items()]
    if seeds == 1:
        sentences.append("With one seed, intervals cover the choice of test items, not the luck of training.")
    return " ".join(sentences)


def weakness(grouped: Grouped) -> str:
    """Return a sentence on a student that is much weaker than its teacher; "" if it is not, or if neither was measured.

    `grouped` holds measurements by name, then arm. Much weaker means twice the teacher's perplexity, or another most likely
    token than the teacher's in more than half of all positions.
    """
    perplexities = grouped.get(key_of(grouped, "perplexity"), {})
    teacher = next((perplexities[arm].mean for arm in perplexities if is_teacher(arm)), inf)
    student = perplexities["student"].mean if "student" in perplexities else 0.0
    signs = []
    if student > 2 * teacher:
        signs.append(f"its perplexity is {quantity(student, '')}, the teacher's {quantity(teacher, '')}")
    agreed = [arms["student"].mean for key, arms in grouped.items() if "top-1-agreement-" in key and "student" in arms]
    if agreed and max(agreed) < 0.5:
        signs.append(f"it predicts the teacher's most likely token in {percent(max(agreed))} of places")
    return f"In absolute terms the student is weak: {_join(signs)}. Train it longer or on more text." if signs else ""


def gain_over_base(comparisons: Sequence[kdtool.Comparison], units: Mapping[str, str]) -> str:
    """Return a sentence on how the student differs from itself before training; "" if that was not measured."""
    with_base = [each for each in comparisons if (each.arm, each.against) == ("student", "base") and not aside_of(each)]
    changes = [_change(each, units.get(each.measurement, "")) for each in with_base]
    return f"Since before training: {'; '.join(changes)}." if changes else ""


def against_reference(found: Sequence[kdtool.Comparison]) -> str:
    """Return a sentence on the comparisons `found` of the student with the reference; "" if there are none."""
    words = {"better": "better", "worse": "worse", "no evidence of a difference": "not shown to differ"}
    parts = [f"{said} in {names}" for verdict, said in words.items() if (names := _names_with(found, verdict))]
    return f"Against the reference, an existing model, the student is {'; '.join(parts)}." if parts else ""


def figures(comparison: kdtool.Comparison, unit: str) -> tuple[str, str]:
    """Return a difference and its interval, with the decimals that the interval's width justifies."""
    half = (comparison.high - comparison.low) / 2
    text, low, high = (
        difference(value, unit, relative=comparison.relative, spread=half)
        for value in (comparison.difference, comparison.low, comparison.high)
    )
    return text, span(low, high)


def _change(comparison: kdtool.Comparison, unit: str) -> str:
    before, after = (quantity(value, unit) for value in (comparison.against_value, comparison.value))
    open_end = ", no evidence of a change" if comparison.verdict == "no evidence of a difference" else ""
    return (
        f"{name(comparison.measurement)} {before} → {after}, {'{} ({})'.format(*figures(comparison, unit))}{open_end}"
    )


def with_controls(comparisons: Sequence[kdtool.Comparison], subjects: Subjects) -> list[kdtool.Comparison]:
    """Return the comparisons of the student with its controls, which show whether distillation helped."""
    return [
        comparison for comparison in comparisons
        if comparison.arm == "student" and subjects.is_trained("student") and subjects.is_trained(comparison.against)
    ]  # fmt: skip


def pairs(comparisons: Sequence[kdtool.Comparison], units: dict[str, str], subjects: Subjects) -> list[PairRow]:
    """Tabulate all pairs of arms, measurement by measurement, those with many items first."""
    ordered = sorted(comparisons, key=lambda comparison: (scarcity(comparison), comparison.measurement))
    return [_pair(comparison, units.get(comparison.measurement, ""), subjects) for comparison in ordered]


def has_few_items(comparison: kdtool.Comparison) -> bool:
    """Return whether a comparison has too few items to judge."""
    return comparison.items < _FEW


def scarcity(comparison: kdtool.Comparison) -> int:
    """Return a sort key that puts comparisons with many items first."""
    return 0 if comparison.items >= _MANY else 2 if has_few_items(comparison) else 1


def _pair(comparison: kdtool.Comparison, unit: str, subjects: Subjects) -> PairRow:
    share = ""
    if comparison.share is not None:
        ratio, low, high = comparison.share
        half = None if low is None or high is None else (high - low) / 2
        share = percent(ratio, spread=half)
        share += (
            "" if low is None or high is None else f" ({span(percent(low, spread=half), percent(high, spread=half))})"
        )
    return PairRow(
        title(comparison.measurement), subjects.title(comparison.arm), subjects.title(comparison.against),
        *figures(comparison, unit), comparison.verdict, share, footing([comparison]),
    )  # fmt: skip


def condition(control: str) -> str:
    """Return the condition under which the student is compared with an arm, in words."""
    return _AGAINST.get(control, f"against {control}")


def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def aside_of(comparison: kdtool.Comparison) -> str:
    """Return the kind of a measurement in `_ASIDES`; "" for all others."""
    return next((kind for kind, (names, _, _) in _ASIDES.items() if names.search(comparison.measurement)), "")


def _judge(control: str, comparisons: Sequence[kdtool.Comparison]) -> Judgement:
    # Likeness to the teacher was the training objective, and an untrained model repeats nothing: only the other
    # measurements decide whether distillation pays.
    others = [comparison for comparison in comparisons if not aside_of(comparison)]
    better, worse = _names_with(others, "better"), _names_with(others, "worse")
    asides = {kind: text for kind in _ASIDES if (text := _describe_aside(kind, comparisons))}
    aside_outcome = "asides" if len(asides) > 1 else next(iter(asides), "open")
    outcome = "mixed" if better and worse else "pays" if better else "costs" if worse else aside_outcome
    claim = {
        "pays": f"the student is better in {better}",
        "costs": f"the control is better in {worse}",
        "mixed": f"the student is better in {better}, worse in {worse}",
        "open": "no interval excludes that student and control are equal",
    }.get(outcome) or ("no difference is shown in other measurements" if others else "nothing else was compared")
    if asides:
        clause = f"the student is {' and '.join(asides.values())}"
        claim = f"{clause}; {claim}" if outcome == aside_outcome else f"{claim}; {clause}"
    return Judgement(control, outcome, claim)


def _names_with(comparisons: Sequence[kdtool.Comparison], verdict: str) -> str:
    return _join([name(comparison.measurement) for comparison in comparisons if comparison.verdict == verdict])


def _describe_aside(kind: str, comparisons: Sequence[kdtool.Comparison]) -> str:
    """Describe how the student differs in one kind of `_ASIDES`, such as "closer to the teacher"; "" if it does not."""
    of_kind = [comparison for comparison in comparisons if aside_of(comparison) == kind]
    _, better, worse = _ASIDES[kind]
    sides = {better: _names_with(of_kind, "better"), worse: _names_with(of_kind, "worse")}
    return " and ".join(f"{side} ({names})" for side, names in sides.items() if names)


def footing(comparisons: Sequence[kdtool.Comparison]) -> str:
    """Return the numbers of items and seeds that comparisons rest on, in words."""
    items, seeds = (sorted({getattr(comparison, key) for comparison in comparisons}) for key in ("items", "seeds"))
    of_items = f"{items[0]}" if len(items) == 1 else f"{items[0]} to {items[-1]}"
    of_seeds = (
        "one seed" if seeds == [1] else f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]} seeds"
    )
    return f"{of_items} items, {of_seeds}"


@dataclass(frozen=True)
class ForestRow:
    """One comparison: positions in percent of the panel's width."""

    against: str
    arm: str
    at: float
    low: float
    high: float
    verdict: str
    text: str
    interval: str


@dataclass(frozen=True)
class ForestPanel:
    """All comparisons of one measurement on a common scale.

    `few`: they have too few items to judge. `zero` is the position of no difference, `ticks` have labels.
    """

    heading: str
    footing: str
    few: bool
    zero: float
    left: str
    right: str
    better: str
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[ForestRow, ...]


def forest(
    comparisons: Sequence[kdtool.Comparison], units: dict[str, str], higher_is_better: dict[str, bool]
) -> list[ForestPanel]:
    """Draw one panel per measurement, with a row for each opponent of the student; those with many items come first."""
    ordered = sorted(comparisons, key=scarcity)
    measurements = list(dict.fromkeys(comparison.measurement for comparison in ordered))
    return [
        _panel(
            measurement,
            [comparison for comparison in comparisons if comparison.measurement == measurement],
            units.get(measurement, ""),
            higher_is_better.get(measurement, False),
        )
        for measurement in measurements
    ]


def _panel(measurement: str, comparisons: Sequence[kdtool.Comparison], unit: str, higher: bool) -> ForestPanel:
    relative = comparisons[0].relative
    marks = [mark for each in comparisons for mark in (each.low, each.high, each.difference)]
    edges = [mark for mark in marks if isfinite(mark)]
    left, right = min([0.0, *edges]), max([0.0, *edges])
    room = (right - left) * 0.08 or 1.0
    left, right = left - room, right + room

    def at(value: float) -> float:
        return 100 * (min(max(value, left), right) - left) / (right - left)

    def label(mark: float) -> str:
        return "0" if abs(mark) < 1e-12 else tick(difference(mark, unit, relative=relative))

    ticks = tuple((at(mark), label(mark)) for mark in inside(left, right))
    other = "other better" if any(each.against == REFERENCE for each in comparisons) else "control better"
    sides = (other, "student better") if higher else ("student better", other)
    rows = tuple(
        ForestRow(
            against=condition(comparison.against),
            arm=comparison.against,
            at=at(comparison.difference),
            low=at(comparison.low),
            high=at(comparison.high),
            verdict=comparison.verdict,
            text=figures(comparison, unit)[0],
            interval=figures(comparison, unit)[1],
        )
        for comparison in comparisons
    )
    return ForestPanel(
        title(measurement), footing(comparisons), all(map(has_few_items, comparisons)),
        at(0.0), *sides, "right" if higher else "left", ticks, rows,
    )  # fmt: skip
