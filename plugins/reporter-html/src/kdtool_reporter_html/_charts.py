"""Draw charts with matplotlib, as SVG embedded in the page.

Text stays text, and colours are the page's CSS variables, so that a chart follows light and dark.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from kdtool_reporter_html._subjects import ARMS, SAME_ROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "Chart", "colour_of", "draw", "inside", "is_wide", "scale", "spread"]

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


def draw(words: str, plot: Callable[[Axes], None], *, height: float = _HEIGHT) -> Markup:
    """Return the chart that `plot` draws, as an `svg` element; `words` describe it to those who cannot see it."""
    file = StringIO()
    with _LOCK, style.context(["default", {**_STYLE, "svg.hashsalt": words}]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fonts without a glyph: the browser has others
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        plot(figure.subplots())
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    head = f'<svg role="img" viewBox="0 0 {_WIDTH} {height:g}" aria-label="{escape(words)}">'
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


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move ascending positions apart by at least `gap`, such that none is above 1."""
    moved: list[float] = []
    for position in positions:
        moved.append(max(position, moved[-1] + gap) if moved else position)
    limit = 1.0
    for number in reversed(range(len(moved))):
        moved[number] = min(moved[number], limit)
        limit = moved[number] - gap
    return moved


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
