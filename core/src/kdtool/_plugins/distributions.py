"""Installed distributions as they are, broken ones too: one that cannot be read keeps nobody from the others.

The registry takes entry points and their owners from here. Nothing is imported but `importlib.metadata`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points, packages_distributions
from pathlib import Path
from typing import Any

from kdtool._text.did_you_mean import did_you_mean

__all__ = ["PREFIX", "Origin", "misplaced", "module_origin", "origin_of", "points"]

PREFIX = "kdtool."
"""What the names of our entry-point groups begin with."""
_AGAIN = "try: pip install --force-reinstall"


@dataclass(frozen=True)
class Origin:
    """A distribution for messages. `trouble` says what is wrong with its metadata and what to do; "" for nothing."""

    name: str = ""
    version: str = ""
    summary: str = ""
    requires: tuple[str, ...] = ()
    trouble: str = ""


@cache
def points() -> tuple[EntryPoint, ...]:
    """Return all entry points in groups of ours, known or not, but for those of distributions that cannot be read."""
    try:
        return _ours(entry_points())
    except Exception:  # one broken distribution breaks that call: ask each for itself
        return tuple(point for found in distributions() for point in _points_of(found)[0])


def misplaced(groups: Collection[str]) -> tuple[str, ...]:
    """Return a sentence for whatever cannot be used since a group's name or a distribution's metadata is wrong."""
    sentences = [trouble for found in distributions() for trouble in [_points_of(found)[1]] if trouble]
    for point in points():
        if point.group not in groups:
            owner = origin_of(point.dist).name if point.dist else "a distribution"
            hint = did_you_mean(point.group, groups, what="groups", shown=20)
            sentences.append(f"{owner} registers {point.name!r} in a group {point.group!r}, which is none; {hint}")
    return tuple(sentences)


@cache
def origin_of(found: Distribution) -> Origin:
    """Return a distribution's name, version and so on, as far as they can be read."""
    place = Path(str(getattr(found, "_path", ""))).name
    try:
        about = found.metadata
        name, version, summary = (str(about[key]) if key in about else "" for key in ("Name", "Version", "Summary"))
        requires = tuple(found.requires or ())
    except Exception as error:
        name = place.partition("-")[0] or "?"
        cause = f"{type(error).__name__}: {error}"
        return Origin(name, trouble=f"its metadata in {place} cannot be read ({cause}); {_AGAIN} {name}")
    missing = [key for key, text in (("name", name), ("version", version)) if not text.strip()]
    name = name or place.partition("-")[0]
    trouble = f"its metadata in {place} gives no {' and no '.join(missing)}; {_AGAIN} {name}" if missing else ""
    return Origin(name, version, summary, requires, trouble)


def module_origin(module: str) -> Distribution | None:
    """Return the distribution that brings a module."""
    top = module.partition(".")[0]
    try:
        names = packages_distributions().get(top, [])
    except Exception:
        names = []
    return next((found for found in distributions() if origin_of(found).name in names), None) if names else None


def _points_of(found: Distribution) -> tuple[tuple[EntryPoint, ...], str]:
    try:
        return _ours(found.entry_points), ""
    except Exception as error:
        name, cause = origin_of(found).name, f"{type(error).__name__}: {error}"
        return (), f"the entry points of {name} cannot be read ({cause}); {_AGAIN} {name}"


def _ours(found: Any) -> tuple[EntryPoint, ...]:
    groups = sorted(group for group in found.groups if group.startswith(PREFIX))
    return tuple(point for group in groups for point in found.select(group=group))
