"""The verdict of a run in words: what the intervals say, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence

from kdtool._contract.reporting import Comparison
from kdtool._text.markdown import signed

_CONTROLS = {
    "control": "the same student trained without the teacher on equally many tokens",
    "control-time": "the same student trained without the teacher for the same time, the teacher's share included",
}
_SAME_ROWS = "the same student trained without the teacher on the same rows, with as many tokens or more"
"""What the control is where the student learned also on text of its own."""
_EACH_BEST = "the same student trained without the teacher on the same rows, each until it got no better"
"""What it is where training ended early."""


_ONE_SEED = (
    "With one seed, intervals say what other items might give with these very models, and nothing of what another training "
    "would give."
)


def verdict(comparisons: Sequence[Comparison], *, on_policy: bool = False, ended_early: bool = False) -> str:
    """Say against which arms the student is better, worse, or not shown to differ, and what share of the teacher it has.

    `on_policy`: the student learned also on text of its own. `ended_early`: it or the control stopped before all its steps.
    """
    like = _EACH_BEST if ended_early else _SAME_ROWS if on_policy else _CONTROLS["control"]
    known = {**_CONTROLS, "control": like}
    own = [found for found in comparisons if found.arm == "student"]
    controls = [found for found in own if found.against in _CONTROLS]
    if not controls:
        nothing = (
            "Nothing is shown about distillation: no control was trained, or no evaluator measured it on two items or more, "
            "item by item."
        )
        return " ".join([nothing, *_shares(own)])
    sentences = []
    for control in dict.fromkeys(found.against for found in controls):
        shown = _outcome([found for found in controls if found.against == control])
        sentences.append(f"Against {known[control]}, the distilled student is {shown}.")
    one_seed = [_ONE_SEED] if all(found.seeds == 1 for found in controls) else []
    return " ".join([*sentences, *_several(controls), *_shares(own), *one_seed])


def side_by_side(comparisons: Sequence[Comparison]) -> str:
    """Say of each pair of arms, none of which was trained here, what is shown."""
    pairs = dict.fromkeys((found.arm, found.against) for found in comparisons)
    if not pairs:
        return (
            "Nothing is compared: one model was measured, or nothing was measured in the same way on two items or more, "
            "item by item."
        )
    sentences = []
    for arm, against in pairs:
        shown = _outcome([found for found in comparisons if (found.arm, found.against) == (arm, against)])
        sentences.append(f"Against {against}, {arm} is {shown}.")
    shares = [f"{found.arm}: {_share(found)}." for found in comparisons if found.share]
    return " ".join([*sentences, *_several(comparisons), *shares])


def _several(comparisons: Sequence[Comparison]) -> list[str]:
    """Say how likely one of several comparisons is to look like a difference by chance; nothing of a single one."""
    count = len(comparisons)
    if count < 2:
        return []
    return [
        f"These are {count} comparisons at the 5 % level each: without any difference, up to {1 - 0.95**count:.0%} of runs "
        "would show one."
    ]


def _shares(comparisons: Sequence[Comparison]) -> list[str]:
    return [f"The student has {_share(found)}." for found in comparisons if found.share]


def _share(found: Comparison) -> str:
    if found.share is None:
        return ""
    ratio, low, high = found.share
    bounds = "" if low is None or high is None else f" (95 % interval {low:.1%} to {high:.1%})"
    return f"{ratio:.1%} of {found.measurement} of {found.against}{bounds}"


def _outcome(comparisons: Sequence[Comparison]) -> str:
    parts = []
    for outcome, words in (("better", "better"), ("worse", "worse")):
        named = [_with_interval(item) for item in comparisons if item.verdict == outcome]
        if named:
            parts.append(f"{words} in {_listed(named)}")
    unclear = [_with_interval(item) for item in comparisons if item.verdict == "no evidence of a difference"]
    if unclear:
        parts.append(f"not shown to differ in {_listed(unclear)}")
    return "; ".join(parts)


def _with_interval(comparison: Comparison) -> str:
    numbers = comparison.difference, *sorted((comparison.low, comparison.high))
    value, low, high = (signed(number, relative=comparison.relative) for number in numbers)
    return f"{comparison.measurement} ({value}, 95 % interval {low} to {high})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
