"""The folder that is sent along with a job: the recipe, the files that it names, and wheels.

kdtool's packages are on no package index, so that anyone could register their names there. They reach the rented machine
as files: built from the folders they were installed from, or packed again from the installed files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import Distribution, distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname
from zipfile import ZIP_DEFLATED, ZipFile

import kdtool
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_MARK = b"# Written by kdtool cloud, which replaces the whole folder\n*\n"
"""Content of .gitignore in a bundle."""


def write_bundle(recipe: Path, report: Mapping[str, Any], folder: Path) -> list[str]:
    """Write recipe, files and wheels into a folder, and return requirements that the machine installs from an index.

    These are plugins with their versions, such as "their-loss==1.2", and what extras need and is installed here, such as
    bitsandbytes for QLoRA. An earlier bundle is replaced whole: nothing else is sent, and links in it are not followed.
    `report` is that of `kdtool.check`, whose `files` are sent.

    Raises:
        UsageError: the recipe names what is not a file below its folder, so that the machine could not find it there. Or
            `folder` has files and is not a bundle.
        StorageError: a wheel cannot be built.
    """
    if not _is_replaceable(recipe, folder):
        raise kdtool.UsageError(f"--to: {folder} has other files; expected a new folder or a bundle; choose another")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".kdtool-cloud-", dir=folder.parent) as temporary:
        made = Path(temporary, "bundle")
        (made / "wheels").mkdir(parents=True)
        for key, path in list(_files(recipe, report["files"])):
            try:
                kdtool.copy_inside(path, recipe.parent, made)
            except OSError as error:
                raise kdtool.UsageError(f"{key}: only files below the recipe's folder are sent: {error}") from error
        kdtool.write_beside(made / ".gitignore", _MARK)
        kdtool.write_beside(made / ".skyignore", "")  # else SkyPilot leaves out what .gitignore names
        sent, requirements = _packages({part["distribution"] for part in report["components"]} - {""})
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda package: write_wheel(package, made / "wheels"), sent))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return requirements


def _is_replaceable(recipe: Path, folder: Path) -> bool:
    """Return whether a folder is new, empty or an earlier bundle, and not the recipe's."""
    if folder.is_symlink() or recipe.resolve().is_relative_to(folder.resolve()):
        return False
    with suppress(OSError), kdtool.open_regular(folder / ".gitignore", inside=folder) as file:
        return file.read() == _MARK
    return not folder.exists() or not any(folder.iterdir())


def _files(recipe: Path, named: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Yield the recipe, those that it extends, and what settings name, each with its key."""
    base, key = recipe, "RECIPE"
    while True:
        yield key, base
        with kdtool.open_regular(base) as file:
            extended = (yaml.safe_load(file.read().decode("utf-8-sig")) or {}).get("extends")
        if not extended or not (base.parent / extended).is_file():  # an installed one, whose package is sent
            break
        base, key = base.parent / extended, "extends"
    yield from ((key, Path(path)) for key, path in named.items())


def _packages(plugins: set[str]) -> tuple[list[Distribution], list[str]]:
    """Return the packages that are sent, kdtool's and those from this machine, and requirements of an index."""
    waiting, seen = ["kdtool", *plugins], set[str]()
    sent, wanted = list[Distribution](), set[str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        package = None if name in seen else next(iter(distributions(name=name)), None)
        seen.add(name)
        if package is None:  # also if a marker of another system requires it
            continue
        is_sent = name.startswith("kdtool") or _origin(package) is not None
        if is_sent:
            sent.append(package)
        elif name in map(canonicalize_name, plugins):
            wanted.add(f"{name}=={package.version}")
        for requirement in map(Requirement, package.requires or ()):
            needed, marker = requirement.name, requirement.marker
            if not marker or marker.evaluate({"extra": ""}):
                waiting.append(needed)
            elif is_sent and any(distributions(name=needed)) and not needed.startswith("kdtool"):
                wanted.add(f"{needed}{requirement.specifier}")  # of an extra
    return sent, sorted(wanted)


def _origin(package: Distribution) -> Path | None:
    """Return the folder or wheel of this machine that a package was installed from."""
    url = urlsplit(json.loads(package.read_text("direct_url.json") or "{}").get("url", ""))
    return Path(url2pathname(url.path)) if url.scheme == "file" else None


def write_wheel(package: Distribution, folder: Path) -> None:
    """Build a wheel from the package's folder, or pack its installed files if it did not come from a folder."""
    origin = _origin(package)
    if origin and origin.is_dir():
        from uv import find_uv_bin

        options = ["--quiet", "--wheel", f"--python={sys.executable}", f"--out-dir={folder}"]
        command = [find_uv_bin(), "build", *options, str(origin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
        if not done.returncode:
            return
        why = (done.stderr.strip().splitlines() or ["uv build failed"])[-1]
        raise kdtool.StorageError(f"{origin}: no wheel can be built: {why}; correct this, then run the command again")
    files = [each for each in package.files or () if ".." not in each.parts and each.suffix != ".pyc"]
    about = next((each.parent for each in files if each.match("*.dist-info/WHEEL")), None)
    if about is None:
        raise kdtool.StorageError(f"{package.name}: its installed files have no WHEEL; install the package again")
    tag = re.search(r"^Tag: *(\S+)", (package.read_text("WHEEL") or ""), re.MULTILINE)
    record = [f"{about.as_posix()}/RECORD,,"]
    with ZipFile(folder / f"{about.stem}-{tag[1] if tag else 'py3-none-any'}.whl", "w", ZIP_DEFLATED) as wheel:
        for each in files:
            if each.name not in {"RECORD", "INSTALLER", "REQUESTED"}:
                data = Path(str(each.locate())).read_bytes()
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                record.append(f"{each.as_posix()},sha256={digest},{len(data)}")
                wheel.writestr(each.as_posix(), data)
        wheel.writestr(f"{about.as_posix()}/RECORD", "\n".join([*record, ""]))
