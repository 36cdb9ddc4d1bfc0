"""Installed components, by the entry points of their packages."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

__all__ = ["installed_among", "is_installed"]


def is_installed(kind: str, *names: str) -> bool:
    """Return whether all the components of a kind are installed; `kind` is in the plural, such as "losses"."""
    return set(names) <= {point.name for point in entry_points(group=f"kdtool.{kind}")}


def installed_among(kind: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the installed components among those that a recipe would use."""
    return {name: settings for name, settings in wanted.items() if is_installed(kind, name)}
