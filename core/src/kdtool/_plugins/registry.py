"""Find installed components by kind and name, from package metadata only.

Listing, searching and suggesting import only `importlib.metadata`. `load` imports the one class that is used:
by a registered name, as `module:Class`, or as `./file.py:Class` next to the recipe. It raises `PluginError` with the
distribution, the cause and the remedy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

from kdtool._contract.kind_table import TABLE
from kdtool._errors import PluginError, UsageError
from kdtool._plugins.distributions import DEFAULTS, find_misplaced, origin_of, points
from kdtool._plugins.importing import import_file, import_point
from kdtool._plugins.loaded import Loaded
from kdtool._plugins.project_packages import install_command, known_components, package_of
from kdtool._text.did_you_mean import did_you_mean
from kdtool._text.terminal import print_line

GROUPS: Mapping[str, str] = {**{kind.name: kind.group for kind in TABLE}, "command": "kdtool.commands"}
"""Entry-point group of each kind; a command is a lazily imported click command, not a component."""


@dataclass(frozen=True)
class Entry:
    """A registered component or command: nothing of it is imported."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    point: EntryPoint


@cache
def _all_entries() -> tuple[Entry, ...]:
    kinds = {group: kind for kind, group in GROUPS.items()}
    known = [(kinds[point.group], point, origin_of(point.dist)) for point in points() if point.group in kinds]
    return tuple(
        Entry(kind, point.name, point.value, origin.name, origin.version, point) for kind, point, origin in known
    )


def entries_by_name(kind: str) -> dict[str, tuple[Entry, ...]]:
    """Return the registered components of a kind by name; more than one entry means that several register it."""
    own = [entry for entry in _all_entries() if entry.kind == kind]
    return {name: tuple(entry for entry in own if entry.name == name) for name in sorted({entry.name for entry in own})}


def defaults_of(kind: str) -> list[str]:
    """Return the names of the installed plugins that are defaults of their kind."""
    named = {point.value for point in points() if point.group == DEFAULTS and point.name == kind}
    return [entry.name for entry in _all_entries() if entry.kind == kind and entry.value in named]


def default_of(kind: str) -> str | None:
    """Return the name of the installed plugin that is the default of its kind; None, with a note, if there are several."""
    found = defaults_of(kind)
    if len(found) > 1:
        print_line(f"note: {' and '.join(found)} are both the default {kind}, so none is used; name one in the recipe")
    return found[0] if len(found) == 1 else None


def find(kind: str, name: str) -> Entry:
    """Return the one registered entry of that name.

    Raises:
        UsageError: nothing of that name is installed.
        PluginError: several distributions register it.
    """
    entries = entries_by_name(kind).get(name, ())
    if len(entries) == 1:
        return entries[0]
    if entries:
        entries = tuple(sorted(entries, key=lambda entry: entry.distribution))
        offers = " and ".join(f"{e.distribution} {e.version}" for e in entries)
        choices = " or ".join(f"`use: {e.value}` ({e.distribution})" for e in entries)
        raise PluginError(f"{offers} both register {kind} {name!r}; write {choices}, or uninstall one of them")
    if package := package_of(kind, name):
        raise UsageError(f"{kind} {name!r} is not installed; get it with: {install_command(package)}")
    suggestion = did_you_mean(
        name, {*entries_by_name(kind), *known_components().get(kind, {})}, what=f"installed {GROUPS[kind][7:]}"
    )
    hints = [
        suggestion or f"no {kind} is installed",
        *(text for text in find_misplaced(GROUPS.values()) if repr(name) in text),
    ]
    raise UsageError(f"no {kind} is called {name!r}; {'; '.join(hints)}")


def load(kind: str, use: str, folder: Path, announce: Callable[[str], None]) -> Loaded:
    """Import the class that `use` names.

    Args:
        kind: the kind it must be of (not checked here).
        use: a registered name, `module:Class`, or a path to a Python file followed by `:Class`.
        folder: where a relative path starts.
        announce: called with a line before code from a local file runs.

    Raises:
        UsageError: the name is unknown.
        PluginError: it cannot be imported.
    """
    if ".py:" in use:
        return import_file(kind, os.path.expanduser(use), folder, announce)  # noqa: PTH111 - unlike Path's, it never raises
    point = EntryPoint(use, use, GROUPS[kind]) if ":" in use else find(kind, use).point
    cls, origin = import_point(kind, use, point)
    return Loaded(cls, use, origin.name, origin.version)
