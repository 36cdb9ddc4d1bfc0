"""Compute training curves for drawing: one chart per term against tokens and wall time, and shares of the gradient.

Lines are polylines in a square of 1000 × 1000, y downwards; the template stretches them. Long histories are thinned by
averaging, so that the page stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import kdtool

from kdtool_reporter_html._numbers import percent, quantity, tick
from kdtool_reporter_html._scales import Axis, Tick, axis
from kdtool_reporter_html._subjects import arm_order, arm_title

__all__ = ["Area", "Chart", "Line", "PhaseCurves", "Shares", "phases"]

_MOST_POINTS = 160
Series = list[tuple[float, float]]
"""Points (x, y) of one line."""


@dataclass(frozen=True)
class Line:
    """One polyline: `points` as SVG wants them; a mean over seeds is drawn thick."""

    arm: str
    points: str
    mean: bool


@dataclass(frozen=True)
class Chart:
    """A chart of several lines; `summary` describes it in words."""

    heading: str
    against: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    logarithmic: bool
    arms: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    summary: str


@dataclass(frozen=True)
class Area:
    """One term's band in the chart of shares; `number` selects its colour; shares are formatted text."""

    label: str
    number: int
    points: str
    mean: str
    first: str
    last: str
    small: bool


@dataclass(frozen=True)
class Shares:
    """Each term's share of the gradient over a phase, seeds averaged."""

    areas: tuple[Area, ...]
    x_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class PhaseCurves:
    """All charts of one phase: pairs (against tokens, against wall time), and shares where norms were logged."""

    name: str
    pairs: tuple[tuple[Chart, Chart], ...]
    shares: Shares | None


@dataclass(frozen=True)
class _History:
    arm: str
    seed: int
    reports: tuple[kdtool.StepReport, ...]


@dataclass(frozen=True)
class _Across:
    """The quantity on a chart's horizontal axis."""

    name: str
    label: str
    of: Callable[[kdtool.StepReport], float]
    tick_label: Callable[[float], str] | None


def phases(arms: Sequence[kdtool.ArmResult]) -> list[PhaseCurves]:
    """Draw every phase that logged at least two steps, those of teachers first, in order of training."""
    ordered = [arm for name in arm_order(arm.arm for arm in arms) for arm in arms if arm.arm == name]
    names = list(dict.fromkeys(name for arm in ordered for name in arm.histories))
    drawn = []
    for name in names:
        histories = [
            _History(arm.arm, arm.seed, reports) for arm in arms if len(reports := arm.histories.get(name, ())) > 1
        ]
        if histories:
            drawn.append(PhaseCurves(name, tuple(_pairs(histories)), _shares(histories)))
    return drawn


def _pairs(histories: Sequence[_History]) -> Iterable[tuple[Chart, Chart]]:
    def total(report: kdtool.StepReport) -> float:
        return report.loss

    yield _pair("Weighted loss", histories, total)
    for label in dict.fromkeys(label for found in histories for report in found.reports for label in report.terms):

        def term(report: kdtool.StepReport, label: str = label) -> float:
            return report.terms[label].value if label in report.terms else float("nan")

        with_term = [found for found in histories if any(label in report.terms for report in found.reports)]
        yield _pair(label, with_term, term)
    for name in dict.fromkeys(name for found in histories for report in found.reports for name in report.metrics):

        def metric(report: kdtool.StepReport, name: str = name) -> float:
            return report.metrics.get(name, float("nan"))

        measured = [found for found in histories if any(name in report.metrics for report in found.reports)]
        yield _pair(f"{name}, split validation", measured, metric)


def _pair(
    heading: str, histories: Sequence[_History], value: Callable[[kdtool.StepReport], float]
) -> tuple[Chart, Chart]:
    longest = max(report.seconds for found in histories for report in found.reports)
    unit, scale = ("s", 1.0) if longest < 180 else ("min", 60.0) if longest < 10_800 else ("h", 3600.0)
    tokens = _Across("training tokens", "training tokens", lambda report: float(report.tokens), _tokens)
    time = _Across("training time", f"training time, {unit}", lambda report: report.seconds / scale, None)
    return _chart(heading, histories, tokens, value), _chart(heading, histories, time, value)


def _tokens(mark: float) -> str:
    return tick(quantity(mark, "parameters"))


def _chart(
    heading: str, histories: Sequence[_History], across: _Across, value: Callable[[kdtool.StepReport], float]
) -> Chart:
    series = {
        (found.arm, found.seed): _thin([(across.of(report), value(report)) for report in found.reports])
        for found in histories
    }
    x = axis(
        (point[0] for line in series.values() for point in line), include_zero=True, most=5, label=across.tick_label
    )
    y = axis((point[1] for line in series.values() for point in line), may_be_logarithmic=True, most=5)
    arms = arm_order(arm for arm, _ in series)
    lines: list[Line] = []
    for arm in arms:
        seeds = [line for (owner, _), line in series.items() if owner == arm]
        lines += [Line(arm, _points(line, x, y), mean=False) for line in seeds]
        if (mean := _mean(seeds)) is not None:
            lines.append(Line(arm, _points(mean, x, y), mean=True))
    titles = tuple((arm, arm_title(arm)) for arm in arms)
    return Chart(
        heading=heading,
        against=across.name,
        x_label=across.label,
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        logarithmic=y.logarithmic,
        arms=titles,
        lines=tuple(lines),
        summary=_in_words(series, arms),
    )


def _thin(line: Series) -> Series:
    finite = [point for point in line if isfinite(point[0]) and isfinite(point[1])]
    width = -(-len(finite) // _MOST_POINTS)
    if width <= 1:
        return finite
    # Keep the first and last point exact: readers look them up.
    groups = [finite[start : start + width] for start in range(1, len(finite) - 1, width)]
    averaged = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [finite[0], *averaged, finite[-1]]


def _mean(seeds: Sequence[Series]) -> Series | None:
    """Average seeds point by point; lines of different length by their fraction of progress."""
    shortest = min(len(line) for line in seeds)
    if shortest < 2:
        return None
    fractions = [place / (shortest - 1) for place in range(shortest)]
    groups = [[_at(line, fraction) for line in seeds] for fraction in fractions]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _at(line: Series, fraction: float) -> tuple[float, float]:
    exact = fraction * (len(line) - 1)
    before = min(int(exact), len(line) - 2)
    (x, y), (next_x, next_y), share = line[before], line[before + 1], exact - before
    return x + (next_x - x) * share, y + (next_y - y) * share


def _points(line: Series, x: Axis, y: Axis) -> str:
    return " ".join(f"{x.at(a) * 10:.0f},{1000 - y.at(b) * 10:.0f}" for a, b in line)


def _in_words(series: dict[tuple[str, int], Series], arms: Sequence[str]) -> str:
    parts = []
    for arm in arms:
        lines = [line for (owner, _), line in series.items() if owner == arm and line]
        if lines:
            begin, end = (sum(line[place][1] for line in lines) / len(lines) for place in (0, -1))
            parts.append(f"{arm_title(arm)}: from {quantity(begin, '')} to {quantity(end, '')}")
    return "; ".join(parts)


def _shares(histories: Sequence[_History]) -> Shares | None:
    student = [found for found in histories if found.arm == "student"]
    labels = list(dict.fromkeys(label for found in student for report in found.reports for label in report.terms))
    if len(labels) < 2:
        return None
    rows = [row for row in zip(*(found.reports for found in student), strict=False) if _has_norms(row)]
    if len(rows) < 2:
        return None
    tokens = [float(row[0].tokens) for row in rows]
    norms = [[_norm(row, label) for label in labels] for row in rows]
    shares = [[norm / sum(step) for norm in step] for step in norms if sum(step) > 0]
    if len(shares) != len(rows):
        return None
    x = axis(tokens, include_zero=True, most=5, label=_tokens)
    return Shares(tuple(_areas(labels, shares, [x.at(value) for value in tokens])), x.ticks)


def _has_norms(row: Sequence[kdtool.StepReport]) -> bool:
    return any(term.gradient_norm is not None for report in row for term in report.terms.values())


def _norm(row: Sequence[kdtool.StepReport], label: str) -> float:
    found = [report.terms[label].gradient_norm for report in row if label in report.terms]
    return sum(norm for norm in found if norm is not None and isfinite(norm)) / len(row)


def _areas(labels: Sequence[str], shares: Sequence[Sequence[float]], places: Sequence[float]) -> Iterable[Area]:
    for number, label in enumerate(labels):
        below = [sum(step[:number]) for step in shares]
        above = [sum(step[: number + 1]) for step in shares]
        edge = [*zip(places, above, strict=True), *reversed(list(zip(places, below, strict=True)))]
        own = [step[number] for step in shares]
        mean = sum(own) / len(own)
        yield Area(
            label=label,
            number=number % 6,
            points=" ".join(f"{at * 10:.0f},{1000 - height * 1000:.0f}" for at, height in _thin_edge(edge)),
            mean=percent(mean),
            first=percent(own[0]),
            last=percent(own[-1]),
            small=mean < 0.01,
        )


def _thin_edge(edge: Series) -> Series:
    if len(edge) <= 2 * _MOST_POINTS:
        return edge
    half = len(edge) // 2
    step = -(-half // _MOST_POINTS)
    upper, lower = edge[:half], edge[half:]
    return [*upper[:-1:step], upper[-1], *lower[:-1:step], lower[-1]]
