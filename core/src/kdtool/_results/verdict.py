"""The verdict of a run in words, from its intervals."""

from __future__ import annotations

from collections.abc import Sequence

from kdtool._contract.comparison import Comparison
from kdtool._text.markdown import number, signed_difference

_CONTROLS = {
    "control": "the same student trained without the teacher on equally many tokens",
    "control-time": "the same student trained without the teacher for the same time, the teacher's share included",
}
_ON_POLICY = "the same student trained without the teacher on the same rows, with as many tokens or more"
_ENDED_EARLY = "the same student trained without the teacher on the same rows, each until it got no better"
_NO_VERDICT = "No verdict about distillation: "
_NO_CONTROL = "the run trained no control; add `control: true`."
_NO_ITEMS = "no evaluator measured student and control on the same two items or more."
_NO_PAIR = "Nothing to compare: no evaluator measured two models on the same two items or more."
_ONE_SEED = "With one seed, intervals cover the choice of test items, not the luck of training."
_OUTCOMES = {"better": "better", "worse": "worse", "no evidence of a difference": "not shown to differ"}


def verdict(
    comparisons: Sequence[Comparison], *, on_policy: bool = False, ended_early: bool = False, has_control: bool = True
) -> str:
    """State against which arms the student is better, worse, or not shown to differ, and its share of the teacher.

    `on_policy`: the student also learned from text that it wrote. `ended_early`: it or the control stopped before all steps.
    `has_control`: the run trained one.
    """
    control = _ENDED_EARLY if ended_early else _ON_POLICY if on_policy else _CONTROLS["control"]
    of_student = [comparison for comparison in comparisons if comparison.arm == "student"]
    controls = [comparison for comparison in of_student if comparison.against in _CONTROLS]
    shares = [f"The student reaches {share}." for share in map(_share, of_student) if share]
    base = [comparison for comparison in of_student if comparison.against == "base"]
    sentences = [f"Against itself before training, the student is {_outcome(base)}."] if base else []
    if not controls:
        no_verdict = _NO_VERDICT + (_NO_ITEMS if has_control else _NO_CONTROL)
        return " ".join([no_verdict, *sentences, *shares, *_weakness(of_student)])
    for arm in dict.fromkeys(comparison.against for comparison in controls):
        shown = _outcome([comparison for comparison in controls if comparison.against == arm])
        sentences.append(
            f"Against {control if arm == 'control' else _CONTROLS[arm]}, the distilled student is {shown}."
        )
    one_seed = [_ONE_SEED] if all(comparison.seeds == 1 for comparison in controls) else []
    return " ".join([*sentences, *_several(controls), *shares, *_weakness(of_student), *one_seed])


def side_by_side(comparisons: Sequence[Comparison]) -> str:
    """State the outcome for each pair of arms, none of which was trained here."""
    sentences = []
    for arm, against in dict.fromkeys((comparison.arm, comparison.against) for comparison in comparisons):
        shown = _outcome(
            [comparison for comparison in comparisons if (comparison.arm, comparison.against) == (arm, against)]
        )
        sentences.append(f"Against {against}, {arm} is {shown}.")
    shares = [f"{comparison.arm}: {_share(comparison)}." for comparison in comparisons if comparison.share]
    return " ".join([*sentences, *_several(comparisons), *shares]) or _NO_PAIR


def _several(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a sentence on several comparisons: how likely one of them looks like a difference by chance."""
    count = len(comparisons)
    chance = f"{1 - 0.95**count:.0%} of runs would show one."
    text = f"These are {count} comparisons at the 5 % level each: without any difference, up to {chance}"
    return [text] if count > 1 else []


def _weakness(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a sentence for each metric compared by ratio in which the student has more than twice a teacher's value."""
    return [
        f"In absolute terms the student is weak: its {found.measurement} is {number(found.value)}, that of {found.against} "
        f"{number(found.against_value)}."
        for found in comparisons
        if found.relative and found.against not in _CONTROLS and found.verdict == "worse" and found.difference > 1
    ]


def _share(found: Comparison) -> str:
    if found.share is None:
        return ""
    ratio, low, high = found.share
    bounds = "" if low is None or high is None else f" (95 % interval {low:.1%} to {high:.1%})"
    return f"{ratio:.1%} of {found.against} in {found.measurement}{bounds}"


def _outcome(comparisons: Sequence[Comparison]) -> str:
    parts = []
    for outcome, words in _OUTCOMES.items():
        named = [_with_interval(found) for found in comparisons if found.verdict == outcome]
        if named:
            *others, last = named
            parts.append(f"{words} in {', '.join(others)} and {last}" if others else f"{words} in {last}")
    return "; ".join(parts)


def _with_interval(found: Comparison) -> str:
    numbers = (found.difference, *sorted((found.low, found.high)))
    value, low, high = (signed_difference(each, relative=found.relative) for each in numbers)
    return f"{found.measurement} ({value}, 95 % interval {low} to {high})"
