"""What the comparisons show: sentences, and a forest plot of differences with their intervals.

Everything here is derived from `Results.comparisons`: nothing is claimed that they do not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import kdtool

from kdtool_reporter_html._numbers import difference, span, tick
from kdtool_reporter_html._scales import Tick, axis
from kdtool_reporter_html._subjects import ARMS, title

__all__ = ["ForestPanel", "ForestRow", "Judgement", "forest", "judgements", "where_it_pays"]

_AGAINST = {"control": "equal tokens", "control-time": "equal wall time"}


@dataclass(frozen=True)
class Judgement:
    """What one control shows. `outcome` is "pays", "costs", "mixed" or "open"; `lines` say it measurement by measurement."""

    control: str
    heading: str
    outcome: str
    summary: str
    lines: tuple[tuple[str, str], ...]
    footing: str


@dataclass(frozen=True)
class ForestRow:
    """One comparison: places in percent of the panel's width."""

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
    """All comparisons of one measurement on a common scale; `zero` is where no difference lies."""

    heading: str
    zero: float
    left: str
    right: str
    better: str
    ticks: tuple[Tick, ...]
    rows: tuple[ForestRow, ...]


def judgements(comparisons: Sequence[kdtool.Comparison], units: dict[str, str]) -> list[Judgement]:
    """Judge each control in turn; `units` holds the unit of each measurement."""
    return [
        _judge(control, [found for found in comparisons if found.control == control], units)
        for control in _controls(comparisons)
    ]


def where_it_pays(found: Sequence[Judgement], seeds: int) -> str:
    """Say in one or two sentences where distillation pays and where it does not."""
    if not found:
        return (
            "No comparison with a control was made, so this run cannot say whether the teacher helped: "
            "add `control:` to the recipe to train the same student without it."
        )
    places = {
        outcome: [_place(item.control) for item in found if item.outcome == outcome]
        for outcome in ("pays", "costs", "mixed", "open")
    }
    phrases = {
        "pays": "Distillation pays {}.",
        "costs": "It does not pay {}: there the control is better.",
        "mixed": "The result is mixed {}: better on some measurements, worse on others.",
        "open": "Nothing is shown {}: the intervals hold no difference as well.",
    }
    sentences = [phrases[outcome].format(_joined(where)) for outcome, where in places.items() if where]
    if not places["pays"]:
        sentences.insert(0, "This run shows no clear gain from distillation.")
    if seeds == 1:
        sentences.append("There is one seed only: the luck of a single training run is not in the intervals.")
    return " ".join(sentences)


def forest(
    comparisons: Sequence[kdtool.Comparison], units: dict[str, str], higher_is_better: dict[str, bool]
) -> list[ForestPanel]:
    """Draw one panel a measurement, with a row for each control."""
    names = list(dict.fromkeys(found.measurement for found in comparisons))
    return [
        _panel(
            name,
            [found for found in comparisons if found.measurement == name],
            units.get(name, ""),
            higher_is_better.get(name, False),
        )
        for name in names
    ]


def _controls(comparisons: Sequence[kdtool.Comparison]) -> list[str]:
    names = {found.control for found in comparisons}
    return [arm for arm in ARMS if arm in names] + sorted(names - set(ARMS))


def _place(control: str) -> str:
    return f"at {_AGAINST[control]}" if control in _AGAINST else f"against {control}"


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _judge(control: str, comparisons: Sequence[kdtool.Comparison], units: dict[str, str]) -> Judgement:
    better = [found for found in comparisons if found.verdict == "better"]
    worse = [found for found in comparisons if found.verdict == "worse"]
    outcome = "mixed" if better and worse else "pays" if better else "costs" if worse else "open"
    summary = {
        "pays": "The student is better than the same model trained without the teacher.",
        "costs": "The same model trained without the teacher is better than the student.",
        "mixed": "The student is better on some measurements and worse on others.",
        "open": "No evidence of a difference between student and control.",
    }[outcome]
    lines = tuple((found.verdict, _sentence(found, units.get(found.measurement, ""))) for found in comparisons)
    place = _place(control)
    return Judgement(control, place[:1].upper() + place[1:], outcome, summary, lines, _footing(comparisons))


def _sentence(found: kdtool.Comparison, unit: str) -> str:
    value = difference(found.difference, unit, relative=found.relative, spread=(found.high - found.low) / 2)
    return f"{title(found.measurement)}: {found.verdict}, {value} (95 % interval {_interval(found, unit)})"


def _footing(comparisons: Sequence[kdtool.Comparison]) -> str:
    items, seeds = (sorted({getattr(found, key) for found in comparisons}) for key in ("items", "seeds"))
    of_items = f"{items[0]}" if len(items) == 1 else f"{items[0]} to {items[-1]}"
    of_seeds = (
        "one seed" if seeds == [1] else f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]} seeds"
    )
    return f"Paired over {of_items} held-out documents or tasks and {of_seeds}."


def _interval(found: kdtool.Comparison, unit: str) -> str:
    half = (found.high - found.low) / 2
    low, high = (difference(edge, unit, relative=found.relative, spread=half) for edge in (found.low, found.high))
    return span(low, high)


def _panel(name: str, comparisons: Sequence[kdtool.Comparison], unit: str, higher: bool) -> ForestPanel:
    relative = comparisons[0].relative
    edges = [edge for found in comparisons for edge in (found.low, found.high, found.difference)]
    room = (max(*edges, 0.0) - min(*edges, 0.0)) * 0.08 or 1.0
    scale = axis(
        [min(*edges, 0.0) - room, max(*edges, 0.0) + room],
        most=5,
        label=lambda mark: "0" if abs(mark) < 1e-12 else tick(difference(mark, unit, relative=relative)),
    )
    sides = ("control better", "student better") if higher else ("student better", "control better")
    rows = tuple(
        ForestRow(
            against=_AGAINST.get(found.control, found.control),
            arm=found.control,
            at=scale.at(found.difference),
            low=scale.at(found.low),
            high=scale.at(found.high),
            verdict=found.verdict,
            text=difference(found.difference, unit, relative=relative, spread=(found.high - found.low) / 2),
            interval=_interval(found, unit),
        )
        for found in comparisons
    )
    return ForestPanel(title(name), scale.at(0.0), *sides, "right" if higher else "left", scale.ticks, rows)
