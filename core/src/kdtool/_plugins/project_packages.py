"""The project's own packages: which of them brings which component, and the command that installs a package.

Until they are published, anyone can register their names on the package index, and so run code on the machines of users.
So messages give pip folders of the clone that the core was installed from, and no such names.
"""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["PUBLISHED", "install_command", "known_components", "package_of"]

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
