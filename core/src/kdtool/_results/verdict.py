"""The verdict of a run in words, from its intervals."""

from __future__ import annotations

from collections.abc import Sequence

from kdtool._contract.comparison import Comparison
from kdtool._recipe.model import REFERENCE, SELF
from kdtool._text.markdown import number, signed_difference

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
_OUTCOMES = {"better": "better", "worse": "worse", "no evidence of a difference": "not shown to differ"}


def verdict(
    comparisons: Sequence[Comparison], *, on_policy: bool = False, ended_early: bool = False, has_control: bool = True
) -> str:
    """State against which arms the student is better, worse, or not shown to differ, and its share of the teacher.

    `on_policy`: the student also learned from text that it wrote. `ended_early`: it or the control stopped before all steps.
    `has_control`: the run trained one.
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
    shares = [f"The student reaches {share}." for share in map(_share, of_student) if share]
    one_seed = [_ONE_SEED] if opponents and all(comparison.seeds == 1 for comparison in opponents) else []
    return " ".join([*sentences, *_several(opponents), *shares, *_weakness(of_student), *one_seed])


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
        if found.relative and found.against not in _OPPONENTS and found.verdict == "worse" and found.difference > 1
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
