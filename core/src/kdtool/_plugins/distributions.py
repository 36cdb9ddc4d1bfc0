"""Installed distributions: entry points and metadata of plugins, the versions that they require, and the project's packages.

A distribution whose entry points cannot be read is skipped with a note. Nothing is imported but `importlib.metadata`.

`first_party.json` lists which of the project's packages brings which component. Until they are published, anyone can
register their names on the package index, and so run code on the machines of users. So messages give pip folders of the
clone that the core was installed from, and no such names.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import (
    Distribution,
    EntryPoint,
    PackageNotFoundError,
    distribution,
    distributions,
    entry_points,  # noqa: TID251 - only here
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


@dataclass(frozen=True)
class Known:
    """A component of the project, installed or not: the requirement that brings it, with its extra, and its description."""

    requirement: str
    about: str

    @property
    def package(self) -> str:
        """The requirement without its extra."""
        return self.requirement.partition("[")[0]


@cache
def known_components() -> dict[str, dict[str, Known]]:
    """Return kind → name → component for all components and commands of the project."""
    data: Any = json.loads(files("kdtool").joinpath("first_party.json").read_text(encoding="utf-8"))
    return {kind: {name: Known(**known) for name, known in names.items()} for kind, names in data.items()}


def find_known(kind: str, name: str) -> Known | None:
    """Return the component of the project that has this name; None if there is none."""
    return known_components().get(kind, {}).get(name)


def describe(kind: str, name: str, dist: Distribution | None) -> str:
    """Return one line about a registered component without importing it: the project's list has it, or the distribution."""
    origin, ours = origin_of(dist), find_known(kind, name)
    return ours.about if ours and ours.package == origin.name else origin.summary


def missing_extra(name: str, extra: str) -> str:
    """Return what an extra of an installed distribution lacks here, and the command that installs it; "" if nothing.

    A class in a local file has no distribution, also if it extends one that names an extra.
    """
    missing = " and ".join(_missing_requirements(distribution(name), extra)) if extra and name else ""
    return missing and f"needs {missing}, not installed here; get it with: {install_command(f'{name}[{extra}]')}"


def _missing_requirements(dist: Distribution, extra: str) -> list[str]:
    """Return the requirements of a distribution's extra that are not installed, or in another version."""
    from packaging.requirements import Requirement  # slow to import

    missing = []
    for requirement in map(Requirement, dist.requires or ()):
        marker = requirement.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            requirement.marker = None
            try:
                met = requirement.specifier.contains(version(requirement.name), prereleases=True)
            except PackageNotFoundError:
                met = False
            missing += [] if met else [str(requirement)]
    return missing


def install_command(requirement: str, *options: str) -> str:
    """Return the command that installs a package, for messages.

    A package that was installed from a folder comes from there again.

    Args:
        requirement: a name, with or without extras and versions.
        options: options for pip, such as `--upgrade`.
    """
    name, extras = canonical(re.split(r"[^\w.-]", requirement)[0]), "".join(re.findall(r"\[.*?\]", requirement))
    folder, ours = _installed_from(name), not PUBLISHED and _is_of_project(name)
    if folder and not (extras and (ours or name == "kdtool")):
        packages = [f"{_path_for_pip(folder)}{extras}"]
    elif not ours:
        packages = [requirement]
    elif folders := _missing_folders(name, re.findall(r"[\w-]+", extras)):
        packages = [f"{_path_for_pip(folders[0])}{extras}", *map(_path_for_pip, folders[1:])]
    else:
        return _WITHOUT_CLONE
    return shlex.join(("pip", "install", *options, *packages))


def _is_of_project(name: str) -> bool:
    """Return whether the name belongs to the project; an installed kdtool-… that the core does not list does not."""
    ours = {"kdtool", *(known.package for names in known_components().values() for known in names.values())}
    return name in ours or (name.startswith("kdtool-") and not _is_installed(name))


def _missing_folders(name: str, extras: Collection[str]) -> list[Path]:
    """Return the clone's folders of a package and of the project's packages that it and its extras lack here."""
    core = _installed_from("kdtool")
    if core is None or not (core.parent / "bootstrap.py").is_file():
        return []
    import tomllib

    projects = {}
    for path in core.parent.glob("*/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        chosen = extras if project["name"] == name else ()
        of_extras = [each for extra in chosen for each in project.get("optional-dependencies", {}).get(extra, ())]
        projects[project["name"]] = path.parent, [*project.get("dependencies", []), *of_extras]
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


def canonical(name: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


DEFAULTS = "kdtool.defaults"
"""Entry points that name the default plugin of a kind: the kind, and the class as in the group of the kind.

Default commands, of which there may be several, are those to use a finished run with.
"""
STORES = "kdtool.stores"
"""Entry points that name a class for remote stores, see `kdtool._store.shared`."""
MODELS = "kdtool.models"
"""Entry points that name a function for names of models: (name, *, offline) → their folder, or None for other text."""
RECIPES = "kdtool.recipes"
"""Entry points that name the package whose file `NAME.yaml` is the recipe of that name."""
LIBRARIES = "kdtool_"
"""The beginning of the names of libraries' entry-point groups, such as those of languages; others begin with `kdtool.`."""


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
        return tuple(dict.fromkeys(point for dist in distributions() for point in _read_entry_points(dist)))


def find_misplaced(groups: Collection[str]) -> tuple[str, ...]:
    """Return a sentence for each entry point in an unknown group of ours."""
    known = {*groups, DEFAULTS, STORES, MODELS, RECIPES}
    suggest = cache(lambda group: did_you_mean(group, groups, what="groups", shown=20))
    return tuple(
        f"{origin_of(point.dist).name} registers {point.name!r} under {point.group!r}, which is not an entry-point group "
        f"of kdtool; {suggest(point.group)}"
        for point in points()
        if point.group not in known and not point.group.startswith(LIBRARIES)
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


@cache
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
    # Python 3.11 gives them by group, in a dictionary whose own methods warn.
    found = itertools.chain.from_iterable(dict.values(registered)) if isinstance(registered, dict) else registered
    return tuple(point for point in found if point.group.startswith(("kdtool.", LIBRARIES)))
