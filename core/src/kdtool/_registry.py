"""What is installed: components by kind and name, from package metadata alone.

Listing, searching and suggesting import nothing but `importlib.metadata`. `load` imports the one class that is used:
by a registered name, as `module:Class`, or as `./file.py:Class` beside the recipe. It raises `PluginError` with the
distribution, the cause and the remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distribution, entry_points, packages_distributions
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool._compatibility import refusal
from kdtool._errors import PluginError
from kdtool._suggest import did_you_mean

if TYPE_CHECKING:
    from kdtool._contract.component import Component


_KINDS = "corpus screen packer teacher cache student transform loss weighting trainer evaluator exporter tracker"
_IRREGULAR = {"corpus": "corpora", "loss": "losses"}
_NAMES = (*_KINDS.split(), "reporter", "command")
GROUPS: Mapping[str, str] = {kind: f"kdtool.{_IRREGULAR.get(kind, kind + 's')}" for kind in _NAMES}
"""Entry-point group of each kind; a command is no component but a lazily imported click command."""


@dataclass(frozen=True)
class Entry:
    """A registered component or command: nothing of it is imported."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    point: EntryPoint


@dataclass(frozen=True)
class Loaded:
    """An imported component class with its origin. `source` is a local plugin's file, `digest` its SHA-256 as imported."""

    cls: type[Component]
    use: str
    distribution: str
    version: str
    source: Path | None = None
    digest: str = ""


@cache
def _all_entries() -> tuple[Entry, ...]:
    found = entry_points()
    points = [(kind, point) for kind, group in GROUPS.items() for point in found.select(group=group)]
    owners = [(point.dist.name, point.dist.version) if point.dist else ("", "") for _, point in points]
    return tuple(Entry(kind, p.name, p.value, *owner, p) for (kind, p), owner in zip(points, owners, strict=True))


def installed(kind: str) -> dict[str, tuple[Entry, ...]]:
    """Return the registered components of a kind by name; more than one entry means that a name is offered twice."""
    names: dict[str, tuple[Entry, ...]] = {}
    for entry in _all_entries():
        if entry.kind == kind:
            names[entry.name] = (*names.get(entry.name, ()), entry)
    return dict(sorted(names.items()))


def find(kind: str, name: str) -> Entry:
    """Return the one registered entry of that name.

    Raises:
        PluginError: nothing of that name is installed, or two distributions offer it.
    """
    entries = installed(kind).get(name, ())
    if len(entries) == 1:
        return entries[0]
    if entries:
        offers = " and ".join(f"{e.distribution} {e.version} ({e.value})" for e in entries)
        raise PluginError(
            f"{kind} {name!r} is offered twice: by {offers}; pip uninstall one of them, or write use: {entries[0].value}"
        )
    package = _first_party().get(kind, {}).get(name)
    if package:
        raise PluginError(f"{kind} {name!r} is not installed; get it with: pip install {package}")
    known = did_you_mean(name, {*installed(kind), *_first_party().get(kind, {})}, what=f"installed {GROUPS[kind][7:]}")
    raise PluginError(f"no {kind} is called {name!r}{'; ' + known if known else ', and none is installed'}")


def load(kind: str, use: str, folder: Path, announce: Callable[[str], None]) -> Loaded:
    """Import the class that `use` names.

    Args:
        kind: the kind it must be of (not checked here).
        use: a registered name, `module:Class`, or a path to a Python file with `:Class` behind it.
        folder: where a relative path starts.
        announce: is told before code from a local file runs.

    Raises:
        PluginError: it cannot be found or imported.
    """
    if ".py:" in use:
        from kdtool._local_file import load_local

        return load_local(kind, use, folder, announce)
    if ":" in use:
        return _import_point(kind, EntryPoint(use, use, GROUPS[kind]), use)
    entry = find(kind, use)
    return _import_point(kind, entry.point, use)


def _import_point(kind: str, point: EntryPoint, use: str) -> Loaded:
    owner = point.dist or _distribution_of(point.value)
    name, version = (owner.name, owner.version) if owner else ("", "")
    if owner and (reason := refusal(owner)):
        raise PluginError(f"{kind} {use!r} cannot be used: {reason}")
    try:
        return Loaded(point.load(), use, name, version)
    except Exception as error:
        origin = f"entry point '{point.value}'" + (f" of {name} {version}" if name else "")
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PluginError(f"{kind} {use!r} ({origin}) cannot be imported: {cause}{_remedy(error, owner)}") from error


def _distribution_of(value: str) -> Distribution | None:
    names = packages_distributions().get(value.partition(":")[0].partition(".")[0], [])
    return distribution(names[0]) if names else None


def _remedy(error: Exception, owner: Distribution | None) -> str:
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if not missing:
        return f"; try: pip install --force-reinstall {owner.name}" if owner else ""
    wanted = re.sub(r"[-_.]+", "-", missing.partition(".")[0]).lower()
    for requirement in (owner.requires if owner else None) or []:
        if re.sub(r"[-_.]+", "-", re.split(r"[\s;<>=!~\[(]", requirement)[0]).lower() == wanted:
            return f"; try: pip install '{requirement.partition(';')[0].strip()}'"
    return f"; the module {missing!r} is missing and is not among what its package says it needs"


@cache
def _first_party() -> dict[str, dict[str, str]]:
    """Return which of the project's own packages brings which component, for names that are not installed."""
    data: Any = json.loads(files("kdtool").joinpath("first_party.json").read_text(encoding="utf-8"))
    return {kind: dict(names) for kind, names in data.items()}
