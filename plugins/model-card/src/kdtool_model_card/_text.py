"""Numbers, tables and settings as cards show them, without anything that is private to a machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import kdtool

__all__ = ["cell", "machine", "number", "percent", "public", "size", "table"]

_SECRET = re.compile(r"\b(hf_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,})")


def number(value: float) -> str:
    """Return a number as text: whole if it is large, else with four digits."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.1f} %"


def size(count: int) -> str:
    """Return a number of bytes in decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.2f} {unit}"
    return f"{count} bytes"


def machine(results: kdtool.Results) -> str:
    """Return the machine of a run in words."""
    about = results.environment
    return f"{about.get('system', 'the machine of the run')}, {about.get('processors', 'unknown')} processors"


def cell(value: object) -> str:
    """Return text for a cell of a table: its first line, with bars escaped."""
    return str(value).partition("\n")[0].replace("|", "\\|")


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; "" without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def public(value: Any) -> Any:
    """Return settings without keys and tokens, and with the last part of absolute paths only."""
    if isinstance(value, Mapping):
        return {str(key): public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value if value is None or isinstance(value, bool | int | float) else str(value)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(value).is_absolute() or value.startswith("~"):
            return kind(value).name
    return _SECRET.sub("[removed]", value)
