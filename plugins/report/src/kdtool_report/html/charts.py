"""Charts by matplotlib, as SVG embedded in the page, and the training curves.

Text stays text, and colours are the page's CSS variables, so that a chart follows light and dark. Curves show each term
against tokens and wall time, and each term's share of the gradient.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from io import StringIO
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeAlias

import kdtool
import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from kdtool_report.html.wording import ARMS, SAME_ROWS, arm_order, arm_title, percent, quantity, tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Points: TypeAlias = NDArray[np.float64]

_WIDTH, _HEIGHT = 400, 220
"""Pixels of a chart; the page stretches it to its card."""
_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
COLOURS: dict[str, str] = dict(re.findall(r"--([\w-]+): (#\w{6})", _CSS.partition("}")[0]))
"""The page's colours in light mode, by the names of their CSS variables."""
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": COLOURS["line"],
    **dict.fromkeys((f"axes.spines.{side}" for side in ("left", "right", "top", "bottom")), False),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.labelcolor"), COLOURS["muted"]),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
}
_LOCK = Lock()
"""matplotlib's settings belong to the process, and runs may share one."""


@dataclass(frozen=True)
class Chart:
    """A chart with its heading and a caption."""

    heading: str
    caption: str
    drawing: Markup


def draw(words: str, plot: Callable[[Axes], None]) -> Markup:
    """Return the chart that `plot` draws, as an `svg` element; `words` describe it to those who cannot see it."""
    file = StringIO()
    with _LOCK, style.context(["default", {**_STYLE, "svg.hashsalt": words}]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fonts without a glyph: the browser has others
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72), layout="constrained")
        plot(figure.subplots())
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    head = f'<svg role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-label="{escape(words)}">'
    return Markup(head + _for_page(file.getvalue()))  # noqa: S704 - matplotlib escapes texts


def colour_of(arm: str) -> str:
    """Return an arm's colour; grey for models other than student, teacher and controls."""
    name = "control" if arm == SAME_ROWS else arm
    return COLOURS[name if name in ARMS else "muted"]


def is_wide(values: Iterable[float]) -> bool:
    """Return whether positive values differ so much that a logarithmic scale suits them."""
    finite = [float(value) for value in values if isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 8 * min(finite)


def scale(
    axes: Axes, which: Literal["x", "y"], *, logarithmic: bool = False, label: Callable[[float], str] | None = None
) -> None:
    """Set the scale of one axis, with few ticks at round numbers; `label` formats them."""
    if logarithmic:
        axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_minor_locator(NullLocator())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if logarithmic else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda mark, _: label(mark)) if label else ScalarFormatter())


def inside(low: float, high: float) -> list[float]:
    """Return up to six round numbers from `low` to `high`."""
    return [float(mark) for mark in MaxNLocator(5).tick_values(low, high) if low <= mark <= high]


def _for_page(svg: str) -> str:
    """Return the content of matplotlib's file with the page's colours, fonts and ids, and without needless digits."""
    _, _, body = svg[svg.index("<svg") :].partition(">")
    body = re.sub(r"<style.*?</style>|<clipPath.*?</clipPath>", "", body, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", lambda tag: _shorten(tag[0]), body)


def _shorten(tag: str) -> str:
    tag = re.sub(r' id="[\w.]+_\d+"| clip-path="[^"]*"| ?font-family: [^;]*;', "", tag)
    tag = re.sub(r"(\d\.\d)\d+", r"\1", tag)
    return re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", tag)


_VARIABLES = {colour: name for name, colour in reversed(COLOURS.items())}
_MOST_POINTS = 160
"""Points of a line; longer histories are averaged in groups."""


@dataclass(frozen=True)
class Share:
    """One term's share of the gradient, as formatted text; `number` selects its colour."""

    label: str
    number: int
    mean: str
    first: str
    last: str
    small: bool


@dataclass(frozen=True)
class PhaseCurves:
    """All charts of one phase; `shares` and `shares_chart` are there if gradient norms were logged."""

    name: str
    arms: tuple[tuple[str, str], ...]
    charts: tuple[Chart, ...]
    shares: tuple[Share, ...]
    shares_chart: Markup | None


@dataclass(frozen=True)
class _History:
    arm: str
    reports: tuple[kdtool.StepReport, ...]


@dataclass(frozen=True)
class _Across:
    """The quantity on a chart's horizontal axis."""

    name: str
    unit: str
    of: Callable[[kdtool.StepReport], float]
    label: Callable[[float], str] | None


def phases(arms: Sequence[kdtool.ArmResult]) -> list[PhaseCurves]:
    """Draw every phase that logged at least two steps, those of teachers first, in order of training."""
    order = arm_order(arm.arm for arm in arms)
    ordered = sorted(arms, key=lambda arm: order.index(arm.arm))
    drawn = []
    for name in dict.fromkeys(name for arm in ordered for name in arm.histories):
        histories = [_History(arm.arm, arm.histories[name]) for arm in ordered if len(arm.histories.get(name, ())) > 1]
        if charts := tuple(_charts(histories)) if histories else ():
            titles = tuple((arm, arm_title(arm)) for arm in dict.fromkeys(history.arm for history in histories))
            drawn.append(PhaseCurves(name, titles, charts, *_shares(histories)))
    return drawn


def _charts(histories: Sequence[_History]) -> Iterable[Chart]:
    def term(report: kdtool.StepReport, label: str) -> float | None:
        return report.terms[label].value if label in report.terms else None

    def metric(report: kdtool.StepReport, name: str) -> float | None:
        return report.metrics.get(name)

    def figure(report: kdtool.StepReport, name: str) -> float | None:
        return report.figures.get(name)

    reports = [report for history in histories for report in history.reports]
    if not any(report.terms for report in reports):
        yield from _pair("Weighted loss", histories, lambda report: report.loss)
    for label in dict.fromkeys(label for report in reports for label in report.terms):
        yield from _pair(label, histories, partial(term, label=label))
    for name in dict.fromkeys(name for report in reports for name in report.figures):
        yield from _pair(name.replace("_", " "), histories, partial(figure, name=name))
    for name in dict.fromkeys(name for report in reports for name in report.metrics):
        yield from _pair(f"{name}, split validation", histories, partial(metric, name=name))


def _pair(
    heading: str, histories: Sequence[_History], value: Callable[[kdtool.StepReport], float | None]
) -> Iterable[Chart]:
    longest = max(report.seconds for history in histories for report in history.reports)
    unit, seconds = ("s", 1.0) if longest < 180 else ("min", 60.0) if longest < 10_800 else ("h", 3600.0)
    for across in (
        _Across("training tokens", "", lambda report: float(report.tokens), _tokens),
        _Across("training time", f", {unit}", lambda report: report.seconds / seconds, None),
    ):
        lines = [(history.arm, _points(history, across.of, value)) for history in histories]
        if drawn := [(arm, line) for arm, line in lines if len(line) > 1]:
            yield _chart(heading, across, drawn)


def _chart(heading: str, across: _Across, lines: Sequence[tuple[str, Points]]) -> Chart:
    by_arm = {arm: [line for owner, line in lines if owner == arm] for arm, _ in lines}
    logarithmic = is_wide(value for _, line in lines for value in line[:, 1])

    def plot(axes: Axes) -> None:
        scale(axes, "x", label=across.label)
        scale(axes, "y", logarithmic=logarithmic, label=_plain if logarithmic else None)
        for arm, seeds in by_arm.items():
            for line in seeds:
                axes.plot(*line.T, color=colour_of(arm), linewidth=0.8, alpha=0.6)
            axes.plot(*_mean(seeds).T, color=colour_of(arm), linewidth=1.8)
        axes.set_xlabel(across.name + across.unit)

    words = "; ".join(_in_words(arm, seeds) for arm, seeds in by_arm.items())
    caption = f"against {across.name}{', logarithmic scale' if logarithmic else ''}"
    return Chart(heading, caption, draw(f"{heading} against {across.name}. {words}.", plot))


def _points(
    history: _History, x: Callable[[kdtool.StepReport], float], y: Callable[[kdtool.StepReport], float | None]
) -> Points:
    """Return a line's finite points [n, 2]; a long line keeps its first and last point, and means of those between."""
    pairs = [(x(report), value) for report in history.reports if (value := y(report)) is not None]
    line = np.array([pair for pair in pairs if all(map(isfinite, pair))]).reshape(-1, 2)
    if len(line) <= _MOST_POINTS:
        return line
    groups = np.array_split(line[1:-1], _MOST_POINTS - 2)
    return np.vstack([line[:1], *(group.mean(axis=0, keepdims=True) for group in groups), line[-1:]])


def _mean(seeds: Sequence[Points]) -> Points:
    """Average lines [n, 2] by their fraction of progress: seeds may end at different steps."""
    progress = np.linspace(0, 1, min(map(len, seeds)))
    lines = [[np.interp(progress, np.linspace(0, 1, len(line)), part) for part in line.T] for line in seeds]
    return np.asarray(np.mean(lines, axis=0).T)


def _in_words(arm: str, seeds: Sequence[Points]) -> str:
    begin, end = (float(np.mean([line[row, 1] for line in seeds])) for row in (0, -1))
    return f"{arm_title(arm)}: from {_plain(begin)} to {_plain(end)}"


def _plain(value: float) -> str:
    return tick(quantity(value, ""))


def _tokens(value: float) -> str:
    return tick(quantity(value, "parameters"))


def _shares(histories: Sequence[_History]) -> tuple[tuple[Share, ...], Markup | None]:
    """Return each term's share of the student's gradient, seeds averaged; nothing for fewer than two terms or norms."""
    students = [history.reports for history in histories if history.arm == "student"]
    labels = list(dict.fromkeys(label for reports in students for report in reports for label in report.terms))
    rows = [row for row in zip(*students, strict=False) if sum(_norm(row, label) for label in labels) > 0]
    if len(labels) < 2 or len(rows) < 2:
        return (), None
    norms = np.array([[_norm(row, label) for label in labels] for row in rows])
    shares = norms / norms.sum(axis=1, keepdims=True)
    parts = []
    for number, (label, values) in enumerate(zip(labels, shares.T, strict=True)):
        mean, first, last = float(values.mean()), float(values[0]), float(values[-1])
        parts.append(Share(label, number % 6, percent(mean), percent(first), percent(last), mean < 0.01))

    def plot(axes: Axes) -> None:
        colours = [COLOURS[f"t{share.number}"] for share in parts]
        axes.stackplot([row[0].tokens for row in thin], *shares[::step].T, colors=colours, alpha=0.85)
        axes.set(ylim=(0, 1), xlabel="training tokens")
        scale(axes, "x", label=_tokens)
        scale(axes, "y", label=lambda mark: tick(percent(mark)))

    step = -(-len(rows) // _MOST_POINTS)
    thin = rows[::step]
    words = "; ".join(f"{share.label} {share.mean} on average" for share in parts)
    return tuple(parts), draw(f"Share of the gradient: {words}.", plot)


def _norm(row: Sequence[kdtool.StepReport], label: str) -> float:
    norms = [report.terms[label].gradient_norm for report in row if label in report.terms]
    return sum(norm for norm in norms if norm is not None and isfinite(norm)) / len(row)
