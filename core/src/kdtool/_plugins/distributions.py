"""Installed distributions: the entry points and metadata of plugins, and the versions of kdtool that they require.

A distribution whose entry points cannot be read is skipped with a note. Nothing is imported but `importlib.metadata`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import (
    Distribution,
    EntryPoint,
    distribution,
    distributions,
    entry_points,
    packages_distributions,
    version,
)
from pathlib import Path
from typing import Any

from kdtool._errors import cause_of
from kdtool._plugins.project_packages import install_command
from kdtool._text.did_you_mean import did_you_mean
from kdtool._text.terminal import escape, print_line

__all__ = [
    "DEFAULTS",
    "STORES",
    "Origin",
    "find_misplaced",
    "module_origin",
    "origin_of",
    "points",
    "refusal",
]

DEFAULTS = "kdtool.defaults"
"""Entry points that name the default plugin of a kind: the kind, and the class as in the group of the kind.

Default commands, of which there may be several, are those to use a finished run with.
"""
STORES = "kdtool.stores"
"""Entry points that name a class for remote stores, see `kdtool._store.remote`."""
_PREFIX = "kdtool."
"""The beginning of the names of our entry-point groups."""


@dataclass(frozen=True)
class Origin:
    """A distribution for messages; empty where it is unknown or its metadata cannot be read."""

    name: str = ""
    version: str = ""
    summary: str = ""
    requires: tuple[str, ...] = ()


@cache
def points() -> tuple[EntryPoint, ...]:
    """Return all entry points in groups of ours, known or not."""
    try:
        return _ours(entry_points())
    except Exception:  # one broken distribution breaks that call
        return tuple(point for dist in distributions() for point in _read_entry_points(dist))


def find_misplaced(groups: Collection[str]) -> tuple[str, ...]:
    """Return a sentence for each entry point in an unknown group of ours."""
    return tuple(
        f"{origin_of(point.dist).name} registers {point.name!r} under {point.group!r}, which is not an entry-point "
        "group of kdtool; "
        f"{did_you_mean(point.group, groups, what='groups', shown=20)}"
        for point in points()
        if point.group not in {*groups, DEFAULTS, STORES}
    )


@cache
def origin_of(dist: Distribution | None) -> Origin:
    """Return a distribution's name, version and so on."""
    try:
        metadata: Any = dist and dist.metadata
        name, release, summary = (escape(str(metadata.get(key) or "")) for key in ("Name", "Version", "Summary"))
        return Origin(name, release, summary, tuple((dist and dist.requires) or ()))
    except Exception:  # no distribution, or metadata that cannot be read
        return Origin()


@cache
def module_origin(module: str) -> Distribution | None:
    """Return the distribution that brings a module."""
    try:
        names = packages_distributions().get(module.partition(".")[0], [])
        return distribution(names[0]) if names else None
    except Exception:  # one broken distribution breaks that call
        return None


def refusal(dist: Distribution) -> str:
    """Return why a distribution's plugins cannot be used with this version of kdtool, and what to do; "" if they can.

    pip resolves versions when it installs; only an upgrade of kdtool without its plugins gets here.
    """
    running, origin = version("kdtool"), origin_of(dist)
    of_kdtool = [text for text in origin.requires if text.lower().startswith("kdtool")]
    excluding = next((text for text in of_kdtool if _excludes(text, running)), "")
    if not excluding:
        return ""
    remedy = f"install versions that fit each other: {install_command(origin.name, '--upgrade')}"
    return f"{origin.name} {origin.version} requires {excluding}, but this is kdtool {running}; {remedy}"


def _excludes(text: str, running: str) -> bool:
    """Return whether a requirement is of kdtool and excludes its version."""
    from packaging.requirements import InvalidRequirement, Requirement  # slow to import

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return False
    applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    included = requirement.specifier.contains(running, prereleases=True)
    return requirement.name.lower() == "kdtool" and applies and not included


def _read_entry_points(dist: Distribution) -> tuple[EntryPoint, ...]:
    try:
        return _ours(dist.entry_points)
    except Exception as error:
        folder = Path(str(getattr(dist, "_path", ""))).name
        remedy = f"try: {install_command(folder.partition('-')[0], '--no-deps', '--force-reinstall')}"
        print_line(f"note: skipped {folder}, its entry points cannot be read ({cause_of(error)}); {remedy}")
        return ()


def _ours(registered: Any) -> tuple[EntryPoint, ...]:
    groups = [group for group in sorted(registered.groups) if group.startswith(_PREFIX)]
    return tuple(point for group in groups for point in registered.select(group=group))
