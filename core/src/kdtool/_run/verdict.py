"""The verdict of a run in words: what the intervals say, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence

from kdtool._run.results import Comparison

__all__ = ["verdict"]

_CONTROLS = {
    "control": "the same student trained without the teacher on equally many tokens",
    "control-time": "the same student trained without the teacher for the same time, the teacher's share included",
}
_SAME_ROWS = "the same student trained without the teacher on the same rows, with as many tokens or more"
"""What the control is where the student learned also on text of its own."""


def verdict(comparisons: Sequence[Comparison], *, own_text: bool = False) -> str:
    """Say for each control on which measurements the student is better, worse, or not shown to differ.

    `own_text`: the student learned also on text of its own.
    """
    if not comparisons:
        return "Nothing is shown about distillation: no control was trained, or no evaluator measured it item by item."
    known = {**_CONTROLS, "control": _SAME_ROWS} if own_text else _CONTROLS
    sentences = []
    for control in dict.fromkeys(comparison.control for comparison in comparisons):
        own = [comparison for comparison in comparisons if comparison.control == control]
        sentences.append(f"Against {known.get(control, control)}, the distilled student is {_outcome(own)}.")
    return " ".join(sentences)


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
    if comparison.relative:
        low, high = sorted((comparison.low, comparison.high))
        return f"{comparison.measurement} ({comparison.difference:+.1%}, 95 % interval {low:+.1%} to {high:+.1%})"
    values = f"{comparison.difference:+.3g}, 95 % interval {comparison.low:+.3g} to {comparison.high:+.3g}"
    return f"{comparison.measurement} ({values})"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
