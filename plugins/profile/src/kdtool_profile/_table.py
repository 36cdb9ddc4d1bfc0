"""The recorded calls as a table: one row for each hook of each component."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdtool_profile._recorder import Frame, Recorder

__all__ = ["Row", "bytes_in_words", "seconds_in_words", "summary", "table"]


@dataclass
class Row:
    """All calls of one hook of one component; `component` and `hook` are "" for the work of kdtool between them.

    `seconds` include the hooks that it called, `own_seconds` and the bytes do not. `background` is true for calls in
    another thread, which did not delay the run.
    """

    component: str
    hook: str
    background: bool
    calls: int = 0
    seconds: float = 0.0
    own_seconds: float = 0.0
    memory: int = 0
    gpu_memory: int = 0

    @property
    def label(self) -> str:
        """The row's name."""
        return f"{self.component}.{self.hook}" if self.component else "kdtool itself"


def table(recorder: Recorder) -> list[Row]:
    """Return the rows by their own time, longest first. Own times of rows in the foreground add up to the run's."""
    rows: dict[tuple[str, str, bool], Row] = {}
    for tree in recorder.trees:
        background = tree is not recorder.home
        for frame, callers in _walk(tree, ()):
            if background and not frame.component:
                continue  # the thread's wait for events
            name = (frame.component, frame.hook if frame.component else "")
            row = rows.setdefault((*name, background), Row(*name, background))
            row.calls += frame.calls if frame.component else 0
            row.seconds += frame.seconds if name not in callers else 0.0
            row.own_seconds += frame.own("seconds")
            row.memory += frame.own("memory")
            row.gpu_memory += frame.own("gpu_memory")
    return sorted(rows.values(), key=lambda row: (row.background, -row.own_seconds))


def _walk(frame: Frame, callers: tuple[tuple[str, str], ...]) -> Iterator[tuple[Frame, tuple[tuple[str, str], ...]]]:
    """Yield all frames of a tree with the names of their callers."""
    yield frame, callers
    name = (frame.component, frame.hook if frame.component else "")
    for child in list(frame.children.values()):
        yield from _walk(child, (*callers, name))


def summary(rows: list[Row]) -> str:
    """Return one line with the time of the run and the hooks that took most of it."""
    whole = sum(row.own_seconds for row in rows if not row.background)
    parts = [
        f"{row.label} {seconds_in_words(row.own_seconds)} ({row.own_seconds / whole:.0%})"
        for row in rows[:3]
        if whole and not row.background
    ]
    return f"profile: {seconds_in_words(whole)}, most of it in {', '.join(parts)}"


def seconds_in_words(seconds: float) -> str:
    """Return a span of time in a unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 99.95 * size else f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.0f} µs"


def bytes_in_words(count: int) -> str:
    """Return a number of bytes in a unit that fits; "" for none."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B" if count else ""
