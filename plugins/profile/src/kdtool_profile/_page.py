"""A page with the flame graph and the table, which loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from zlib import crc32

from kdtool_profile._recorder import Frame, Recorder
from kdtool_profile._table import Row, bytes_in_words, seconds_in_words, table

__all__ = ["page"]

_HEIGHT = 22
_SMALLEST = 1e-4  # share of the width; narrower frames cannot be seen
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
svg text { font-size: 12px; fill: #111; }
svg rect { stroke: canvas; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .15rem .8rem .15rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.background { opacity: .65; }
"""
_COLUMNS = ("hook", "calls", "own time", "share", "including callees", "peak memory", "peak GPU memory")


def page(recorder: Recorder, name: str, status: str, reused: list[str]) -> str:
    """Return the page; `reused` are titles of stages that an earlier process made."""
    whole = recorder.home
    title = f"Profile of {name}"
    kept = (
        f"<p>Stages that existed already, and were not made again: {escape(', '.join(reused))}.</p>" if reused else ""
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style>
<h1>{escape(title)}</h1>
<p>{seconds_in_words(whole.seconds)}, {escape(status)}. Callers are above the hooks that they call; widths are time.
Point at a frame for its numbers. <code>speedscope.json</code> opens at speedscope.app, to zoom and search.</p>
{kept}
{_graph(whole)}
<h2>Hooks by their own time</h2>
<p>Peak memory is by how much the calls raised the peak of the process, without the hooks that they called. Rows in grey ran
in another thread, without delaying the run.</p>
<div class="scroll"><table>{_table(table(recorder), whole.seconds)}</table></div>
</html>
"""


def _graph(root: Frame) -> str:
    boxes = list(_boxes(root, 0.0, 0, root.seconds or 1.0))
    height = _HEIGHT * (1 + max(depth for _, _, _, depth in boxes))
    drawn = "\n".join(_box(*box, root.seconds or 1.0) for box in boxes)
    return f'<svg role="img" aria-label="Flame graph" width="100%" height="{height}">\n{drawn}\n</svg>'


def _boxes(frame: Frame, left: float, depth: int, whole: float) -> Iterator[tuple[Frame, float, float, int]]:
    """Yield each frame with its left edge and width, as shares of the whole, and its depth."""
    yield frame, left, frame.seconds / whole, depth
    for child in frame.children.values():
        if child.seconds / whole >= _SMALLEST:
            yield from _boxes(child, left, depth + 1, whole)
        left += child.seconds / whole


def _box(frame: Frame, left: float, width: float, depth: int, whole: float) -> str:
    label = escape(frame.label)
    parts = [
        f"{seconds_in_words(frame.seconds)} ({frame.seconds / whole:.1%})",
        f"own {seconds_in_words(frame.own('seconds'))}",
        f"calls {frame.calls:,}" if frame.component else "",
        f"peak memory +{bytes_in_words(frame.memory)}" if frame.memory else "",
        f"peak GPU memory +{bytes_in_words(frame.gpu_memory)}" if frame.gpu_memory else "",
    ]
    numbers = ", ".join(filter(None, parts))
    fill = f"hsl({crc32(frame.component.encode(errors='replace')) % 360} 65% 72%)" if frame.component else "#c8c8c8"
    return (
        f'<svg x="{left:.4%}" y="{depth * _HEIGHT}" width="{width:.4%}" height="{_HEIGHT}"><title>{label}: {numbers}</title>'
        f'<rect width="100%" height="100%" fill="{fill}"/><text x="4" y="15">{label}</text></svg>'
    )


def _table(rows: list[Row], whole: float) -> str:
    """Return the rows of the table, without columns in which nothing was measured."""
    lines = [_COLUMNS, *(_cells(row, whole) for row in rows)]
    kept = [index for index in range(len(_COLUMNS)) if any(line[index] for line in lines[1:])]
    head = "".join(f"<th>{_COLUMNS[index]}</th>" for index in kept)
    body = [
        f"<tr{' class=background' if row.background else ''}>{''.join(f'<td>{cells[index]}</td>' for index in kept)}</tr>"
        for row, cells in zip(rows, lines[1:], strict=True)
    ]
    return "\n".join([f"<tr>{head}</tr>", *body])


def _cells(row: Row, whole: float) -> tuple[str, ...]:
    return (
        escape(row.label),
        f"{row.calls:,}" if row.component else "",
        seconds_in_words(row.own_seconds),
        f"{row.own_seconds / whole:.1%}" if whole and not row.background else "",
        seconds_in_words(row.seconds) if row.component else "",
        bytes_in_words(row.memory),
        bytes_in_words(row.gpu_memory),
    )
