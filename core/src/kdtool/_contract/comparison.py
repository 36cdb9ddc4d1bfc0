"""Values of arms, comparisons between them, and both in brief."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from kdtool._text.markdown import number, number_range


@dataclass(frozen=True)
class ArmValue:
    """One arm on one measurement: the mean over its `seeds` seeds, with its 95 % interval.

    The interval covers other items and, with several seeds, other seeds. With one seed it is that of the measurement.
    `low` and `high` are None if several seeds were not measured item by item, or the evaluator returned no interval.
    Since 0.1.
    """

    arm: str
    measurement: str
    unit: str
    higher_is_better: bool
    value: float
    low: float | None
    high: float | None
    seeds: int

    def __str__(self) -> str:
        bounds = number_range(self.low, self.high)
        return f"{number(self.value)} ({bounds})" if bounds else number(self.value)


@dataclass(frozen=True)
class Comparison:
    """Two arms on one measurement, paired over items and seeds: `arm` against another.

    An arm is "student", "control", "control-time", a teacher's or a file's name. `difference` is `value` minus
    `against_value` after the transform (a ratio minus 1 for "exp"); `low` and `high` bound its 95 % interval, over items
    and, if there are several, seeds; a ratio's may be infinite if a seed diverged. `verdict` is "better", "worse" or "no
    evidence of a difference", seen from `arm`. `share` is `value` as a share of a teacher's, with its 95 % interval if
    there is one; None against other arms, and for metrics without a meaningful ratio: lower is better, or the unit has no
    zero.
    """

    measurement: str
    arm: str
    against: str
    value: float
    against_value: float
    difference: float
    low: float
    high: float
    relative: bool
    verdict: Literal["better", "worse", "no evidence of a difference"]
    seeds: int
    items: int
    share: tuple[float, float | None, float | None] | None = None


_FIGURES = 4
_IN_BRIEF = {
    "better": "better than",
    "worse": "worse than",
    "no evidence of a difference": "not shown to differ from",
}


def tabulate(values: Sequence[ArmValue], comparisons: Sequence[Comparison]) -> Iterator[list[str]]:
    """Yield a row of headings, then the main figures of each arm with their intervals.

    Main figures are the first four that arms were compared in; without comparisons, the first four of all.
    """
    shown = main_figures(values, comparisons)
    cells = {(value.arm, value.measurement): value for value in values}
    arrows = {value.measurement: "↑" if value.higher_is_better else "↓" for value in values}
    yield ["subject", *(f"{name} {arrows[name]}" for name in shown)]
    for arm in dict.fromkeys(value.arm for value in values if value.measurement in shown):
        yield [arm, *(str(cells.get((arm, name), "–")) for name in shown)]


def main_figures(values: Sequence[ArmValue], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the first four measurements that arms were compared in; without comparisons, the first four of all."""
    compared = dict.fromkeys(found.measurement for found in comparisons)
    return [*(compared or dict.fromkeys(value.measurement for value in values))][:_FIGURES]


def shorten(comparisons: Sequence[Comparison]) -> str:
    """Return the verdict in a few words: of the student against controls and reference, or of two measured arms."""
    main = [each for each in comparisons if each.arm == "student" and each.against.startswith(("control", "reference"))]
    if not main and any(each.arm == "student" for each in comparisons):
        return "not compared with a control"
    pairs = dict.fromkeys((each.arm, each.against) for each in main or comparisons)
    if not main and len(pairs) > 2:
        return f"{len(pairs)} pairs compared"
    opponents: dict[tuple[str, str], list[str]] = {}
    for arm, against in pairs:
        made = [each for each in comparisons if (each.arm, each.against) == (arm, against)]
        for verdict, words in _IN_BRIEF.items():
            if names := [each.measurement for each in made if each.verdict == verdict]:
                where = " and ".join(names) if len(names) < 3 else f"{len(names)} of {len(made)} measurements"
                opponents.setdefault((words if main else f"{arm} {words}", where), []).append(against)
    parts = [f"{words} {' and '.join(others)} in {where}" for (words, where), others in opponents.items()]
    return "; ".join(parts) or "nothing was compared"
