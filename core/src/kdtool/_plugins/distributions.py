"""Installed distributions: entry points and metadata of plugins, the versions that they require, and the project's packages.

A distribution whose entry points cannot be read is skipped with a note. Nothing is imported but `importlib.metadata`.

`first_party.json` lists which of the project's packages brings which component. Until they are published, anyone can register
their names on the package index, and so run code on the machines of users. So messages give pip folders of the clone that
the core was installed from, and no such names.
"""

from __future__ import annotations

import json
import re
import shlex
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
from importlib.resources import files
from pathlib import Path
from typing import Any

from kdtool._errors import cause_of
from kdtool._text.names import did_you_mean
from kdtool._text.terminal import escape_controls as escape
from kdtool._text.terminal import print_line

PUBLISHED = False
"""Set to True with the first release: then the project's packages are on the package index."""
_WITHOUT_CLONE = "python bootstrap.py everything (in a clone of kdtool)"


@cache
def known_components() -> dict[str, dict[str, str]]:
    """Return kind → component → package for all components of the project, installed or not."""
    data: Any = json.loads(files("kdtool").joinpath("first_party.json").read_text(encoding="utf-8"))
    return {kind: dict(names) for kind, names in data.items()}


def package_of(kind: str, name: str) -> str | None:
    """Return the project's own package that brings the component, installed or not; None where there is none."""
    return known_components().get(kind, {}).get(name)


def install_command(requirement: str, *options: str) -> str:
    """Return the command that installs a package, for messages.

    A package that was installed from a folder comes from there again, unless extras are asked for: these are other packages.

    Args:
        requirement: a name, with or without extras and versions.
        options: options for pip, such as `--upgrade`.
    """
    name = _canonical(re.split(r"[^\w.-]", requirement)[0])
    if "[" not in requirement and (folder := _installed_from(name)):
        packages = [_path_for_pip(folder)]
    elif PUBLISHED or not _is_of_project(name):
        packages = [requirement]
    elif not (packages := [_path_for_pip(folder) for folder in _missing_folders(name)]):
        return _WITHOUT_CLONE
    return shlex.join(("pip", "install", *options, *packages))


def _is_of_project(name: str) -> bool:
    """Return whether the name belongs to the project; an installed kdtool-… that the core does not list does not."""
    ours = {"kdtool", *(package for names in known_components().values() for package in names.values())}
    return name in ours or (name.startswith("kdtool-") and not _is_installed(name))


def _missing_folders(name: str) -> list[Path]:
    """Return the clone's folders of a package and of the project's packages that it needs, without installed ones."""
    core = _installed_from("kdtool")
    if core is None or not (core.parent / "bootstrap.py").is_file():
        return []
    import tomllib

    projects = {}
    for path in core.parent.glob("*/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        projects[project["name"]] = path.parent, project.get("dependencies", [])
    missing, waiting = {}, [name]
    while waiting:
        needed = waiting.pop()
        if needed in projects and needed not in missing and (needed == name or not _is_installed(needed)):
            missing[needed], requirements = projects[needed]
            waiting += [re.split(r"[^\w.-]", requirement)[0] for requirement in requirements]
    return list(missing.values())


def _installed_from(name: str) -> Path | None:
    """Return the folder that a package was installed from, if it is still there."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # slow to import

    try:
        url = urlsplit(json.loads(distribution(name).read_text("direct_url.json") or "{}").get("url", ""))
        folder = Path(url2pathname(url.path))
        return folder if url.scheme == "file" and folder.is_dir() else None
    except Exception:  # not installed, or metadata that cannot be read
        return None


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except Exception:  # not installed, or metadata that cannot be read
        return False


def _path_for_pip(folder: Path) -> str:
    here = Path.cwd()
    return f"./{folder.relative_to(here).as_posix()}" if folder.is_relative_to(here) else str(folder)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


DEFAULTS = "kdtool.defaults"
"""Entry points that name the default plugin of a kind: the kind, and the class as in the group of the kind.

Default commands, of which there may be several, are those to use a finished run with.
"""
STORES = "kdtool.stores"
"""Entry points that name a class for remote stores, see `kdtool._store.shared`."""
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
