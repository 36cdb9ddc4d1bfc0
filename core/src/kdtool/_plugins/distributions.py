"""Installed distributions: the entry points and metadata of plugins, and the contract for which they were written.

A distribution whose entry points cannot be read is skipped with a note. A plugin's distribution depends on
`kdtool[contract-1]`, an extra without packages, and not on a release of the core. Nothing is imported but
`importlib.metadata`.
"""

from __future__ import annotations

import re
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
)
from pathlib import Path
from typing import Any

from kdtool._plugins.project_packages import install_command
from kdtool._text.did_you_mean import did_you_mean
from kdtool._text.terminal import escape, print_line

__all__ = [
    "CONTRACT",
    "CONTRACTS",
    "DEFAULTS",
    "Origin",
    "contracts_of",
    "find_misplaced",
    "module_origin",
    "origin_of",
    "points",
    "refusal",
]

CONTRACT = 1
"""The contract's number. It grows when plugins written for an older one would no longer work.

`core/contract-N.json` holds what plugins may rely on under each number; a test compares.
"""

CONTRACTS = frozenset({CONTRACT})
"""The numbers whose plugins this core still works with. Its distribution offers an extra `contract-N` for each."""
DEFAULTS = "kdtool.defaults"
"""Entry points that name the default plugin of a kind: the kind, and the class as in the group of the kind.

Default commands, of which there may be several, are those to use a finished run with.
"""
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
        return tuple(point for found in distributions() for point in _readable(found))


def find_misplaced(groups: Collection[str]) -> tuple[str, ...]:
    """Return a sentence for each entry point in an unknown group of ours."""
    return tuple(
        f"{origin_of(point.dist).name} registers {point.name!r} under {point.group!r}, which is not an entry-point "
        "group of kdtool; "
        f"{did_you_mean(point.group, groups, what='groups', shown=20)}"
        for point in points()
        if point.group not in {*groups, DEFAULTS}
    )


@cache
def origin_of(found: Distribution | None) -> Origin:
    """Return a distribution's name, version and so on."""
    try:
        about: Any = found and found.metadata
        name, version, summary = (escape(str(about.get(key) or "")) for key in ("Name", "Version", "Summary"))
        return Origin(name, version, summary, tuple((found and found.requires) or ()))
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


def contracts_of(found: Distribution) -> frozenset[int]:
    """Return the numbers that a distribution requires of kdtool; an empty set if it states none."""
    numbers: set[int] = set()
    for requirement in origin_of(found).requires:
        match = re.match(r"kdtool\s*\[([^\]]*)\]", requirement, re.IGNORECASE)
        extras = match[1].split(",") if match else ()
        matches = (re.fullmatch(r"contract[-_.]+(\d+)", extra.strip(), re.IGNORECASE) for extra in extras)
        numbers.update(int(number[1]) for number in matches if number)
    return frozenset(numbers)


def refusal(found: Distribution) -> str:
    """Say why a distribution's plugins cannot be used with this core, and what to do; "" if they can."""
    missing = sorted(contracts_of(found) - CONTRACTS)
    if not missing:
        return ""
    name, newer = origin_of(found).name, missing[-1] > CONTRACT
    outdated = "kdtool" if newer else name
    remedy = f"get a newer {outdated}: {install_command(outdated, '--upgrade')}"
    wanted, given = (" and ".join(map(str, numbers)) for numbers in (missing, sorted(CONTRACTS)))
    version = origin_of(found).version
    return f"{name} {version} was written for contract {wanted}, but this kdtool gives contract {given}; {remedy}"


def _readable(found: Distribution) -> tuple[EntryPoint, ...]:
    try:
        return _ours(found.entry_points)
    except Exception as error:
        place = Path(str(getattr(found, "_path", ""))).name
        remedy = f"try: {install_command(place.partition('-')[0], '--no-deps', '--force-reinstall')}"
        print_line(
            f"note: skipped {place}, its entry points cannot be read ({type(error).__name__}: {error}); {remedy}"
        )
        return ()


def _ours(found: Any) -> tuple[EntryPoint, ...]:
    return tuple(
        point for group in sorted(found.groups) if group.startswith(_PREFIX) for point in found.select(group=group)
    )
