"""Wheels of the packages on this machine that a recipe needs.

kdtool's packages are on no package index, so that anyone could register their names there. They reach the rented machine as
files: built from the folders they were installed from, or copied if they were installed from a wheel.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import kdtool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["write_wheels"]


def write_wheels(names: Iterable[str], folder: Path) -> list[str]:
    """Write wheels of the packages and their requirements, if they were installed from this machine.

    Args:
        names: distributions, such as "kdtool-loss-ce".
        folder: gets the wheels; those that are in it are deleted.

    Returns:
        Requirements that the machine installs from an index: the other named packages, such as "their-loss==1.2", and those
        of extras that are installed here, such as bitsandbytes for QLoRA.

    Raises:
        UsageError: one of kdtool's packages was installed from an index.
        StorageError: a wheel cannot be built.
    """
    wanted = set(names)
    needed = {package.name: (package, _origin(package)) for package in _closure(wanted)}
    indexed = {name: package.version for name, (package, origin) in needed.items() if origin is None}
    if ours := [name for name in indexed if canonicalize_name(name).startswith("kdtool")]:
        raise kdtool.UsageError(
            f"{ours[0]} was installed from an index, where anyone can register this name; expected it from a clone or a "
            "wheel; install it again from there (`python bootstrap.py everything` in a clone)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda origin: _write(origin, folder), [origin for _, origin in needed.values() if origin]))
    pinned = [f"{name}=={version}" for name, version in indexed.items() if name in wanted]
    extras = {text for package, origin in needed.values() if origin for text in _extras(package)}
    return [*pinned, *sorted(extras)]


def _closure(names: Iterable[str]) -> Iterator[Distribution]:
    """Yield the installed packages and those they require, without optional ones that are missing."""
    waiting, seen = [*names], set[str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            package = distribution(name)
        except PackageNotFoundError:  # required by an extra, or by a marker of another system
            continue
        yield package
        waiting += [
            requirement.name for requirement in map(Requirement, package.requires or ()) if _is_active(requirement)
        ]


def _is_active(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _extras(package: Distribution) -> Iterator[str]:
    """Yield the requirements of extras whose requirements are all installed, and none of them kdtool's."""
    for extra in package.metadata.get_all("Provides-Extra") or ():
        wanted = [one for one in map(Requirement, package.requires or ()) if one.marker and not _is_active(one)]
        wanted = [one for one in wanted if one.marker and one.marker.evaluate({"extra": extra})]
        if all(_is_installed(one.name) and not one.name.startswith("kdtool") for one in wanted):
            yield from (f"{one.name}{one.specifier}" for one in wanted)


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def _origin(package: Distribution) -> Path | None:
    """Return the folder or the wheel that a package was installed from, None for an index or another machine."""
    url = urlsplit(json.loads(package.read_text("direct_url.json") or "{}").get("url", ""))
    path = Path(url2pathname(url.path))
    return path if url.scheme == "file" and path.exists() else None


def _write(origin: Path, folder: Path) -> None:
    from uv import find_uv_bin

    if origin.is_file():
        shutil.copy(origin, folder)
        return
    command: list[str | Path] = [
        find_uv_bin(),
        "build",
        "--quiet",
        "--wheel",
        "--python",
        sys.executable,
        "--out-dir",
        folder,
        origin,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["uv build failed"])[-1]
        raise kdtool.StorageError(
            f"{origin}: no wheel can be built: {reason}; correct this, then run the command again"
        )
