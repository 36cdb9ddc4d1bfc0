"""A job as both services need it, and the folder that is sent along: the recipe, the files that it names, and wheels.

kdtool's packages are on no package index, so that anyone could register their names there. They reach the rented
machine as files: built from the folders they were installed from, or packed again from the installed files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname
from zipfile import ZIP_DEFLATED, ZipFile

import kdtool
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kdtool_cloud.jobs.forecast import Forecast, strings

MOUNT = "/kdtool"
"""Folder of the rented machine where the bucket is mounted, with the store and the folder for runs."""


@dataclass(frozen=True)
class Job:
    """A recipe in a bundle, with the settings of its run.

    Args:
        name: the recipe's name.
        folder: the bundle, see `write_bundle`.
        recipe: the recipe's file in it.
        bucket: where store and runs are kept, as the user wrote it.
        settings: values of `--set`.
        secrets: names of environment variables that the machine gets from this one.
        sandbox: False leaves out evaluators that run generated programs.
    """

    name: str
    folder: Path
    recipe: str
    bucket: str
    settings: Mapping[str, str]
    secrets: tuple[str, ...] = ()
    sandbox: bool = True

    def run_arguments(self) -> list[str]:
        """Return the arguments of `kdtool` on the machine, without the recipe's folder."""
        settings = [word for key, value in self.settings.items() for word in ("--set", f"{key}={value}")]
        no_sandbox = [] if self.sandbox else ["--no-sandbox"]
        return ["run", self.recipe, "--out", f"{MOUNT}/runs", "--store", f"{MOUNT}/store", *no_sandbox, *settings]


WHEELS = "wheels"
"""Folder of the bundle with wheels."""


def write_bundle(recipe: Path, needs: Forecast, folder: Path) -> list[str]:
    """Write recipe, files and wheels into a folder; files of the same name are replaced.

    Args:
        recipe: the recipe's file.
        needs: the forecast, with the recipe's components.
        folder: the bundle.

    Returns:
        Requirements of plugins that the machine installs from an index.

    Raises:
        UsageError: the recipe names a file outside its folder, which the machine could not find at that place.
        StorageError: a wheel cannot be built.
    """
    files = list(_files(recipe, needs))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    (folder / ".skyignore").write_text("", encoding="utf-8")  # else SkyPilot leaves out what .gitignore names
    for path in files:
        target = folder / path.relative_to(recipe.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copy(path, target)
    names = {part["distribution"] for part in needs.components} - {""}
    return write_wheels({"kdtool", *names}, folder / WHEELS)


def _files(recipe: Path, needs: Forecast) -> Iterator[Path]:
    """Yield the recipe, those that it extends, and the files and folders that settings name."""
    yield recipe
    base = recipe
    while extended := (yaml.safe_load(base.read_text(encoding="utf-8-sig")) or {}).get("extends"):
        yield (base := _inside(recipe, "extends", base.parent / extended))
    for part in needs.components:
        for text in [re.sub(r":\w+$", "", str(part["use"])), *strings(part["config"])]:
            path = recipe.parent / Path(text).expanduser() if text and len(text) < 1000 and "\n" not in text else None
            if path is not None and path.exists():
                yield _inside(recipe, part["name"], path)


def _inside(recipe: Path, key: str, path: Path) -> Path:
    if path.resolve().is_relative_to(recipe.parent.resolve()) and path.resolve() != recipe.parent.resolve():
        return recipe.parent / path.resolve().relative_to(recipe.parent.resolve())
    raise kdtool.UsageError(
        f"{key}: {path} is on this machine only; expected a file below the recipe's folder, which is sent along; move it "
        f"below {recipe.parent.resolve()}"
    )


def write_wheels(names: Iterable[str], folder: Path) -> list[str]:
    """Write wheels of the packages and their requirements, if they were installed from this machine.

    Args:
        names: distributions, such as "kdtool-loss-ce".
        folder: gets the wheels; those that are in it are deleted.

    Returns:
        Requirements that the machine installs from an index: the other named packages, such as "their-loss==1.2", and those
        of extras that are installed here, such as bitsandbytes for QLoRA.

    Raises:
        StorageError: a wheel cannot be built.
    """
    wanted = set(names)
    needed = list(_closure(wanted))
    sent = [package for package in needed if _is_ours(package) or _is_local(package)]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda package: _write(package, folder), sent))
    pinned = [
        f"{package.name}=={package.version}" for package in needed if package not in sent and package.name in wanted
    ]
    return [*pinned, *sorted({text for package in sent for text in _extras(package)})]


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


def _is_ours(package: Distribution) -> bool:
    return canonicalize_name(package.name).startswith("kdtool")


def _is_local(package: Distribution) -> bool:
    """Return whether a package was installed from a folder or a wheel of this machine."""
    return _url(package).scheme == "file"


def _url(package: Distribution) -> SplitResult:
    recorded: dict[str, str] = json.loads(package.read_text("direct_url.json") or "{}")
    return urlsplit(recorded.get("url", ""))


def _write(package: Distribution, folder: Path) -> None:
    """Build a wheel from the package's folder, or pack its installed files if it came from a wheel."""
    url = _url(package)
    origin = Path(url2pathname(url.path))
    if url.scheme == "file" and origin.is_dir():
        _build(origin, folder)
    else:
        _pack(package, folder)


def _pack(package: Distribution, folder: Path) -> None:
    """Write a wheel of the installed files, with a record of their hashes."""
    kept = [
        file
        for file in package.files or ()
        if ".." not in file.parts and file.suffix != ".pyc" and file.name not in {"RECORD", "INSTALLER", "REQUESTED"}
    ]
    about = next((file.parent for file in kept if file.name == "WHEEL" and file.parent.suffix == ".dist-info"), None)
    if about is None:
        raise kdtool.StorageError(f"{package.name}: its installed files have no WHEEL; install the package again")
    tag = re.search(r"^Tag: *(\S+)", (package.read_text("WHEEL") or ""), re.MULTILINE)
    name = f"{about.stem}-{tag[1] if tag else 'py3-none-any'}.whl"
    record = []
    with ZipFile(folder / name, "w", ZIP_DEFLATED) as wheel:
        for file in kept:
            data = Path(str(file.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{file.as_posix()},sha256={digest},{len(data)}")
            wheel.writestr(file.as_posix(), data)
        listed = f"{about.as_posix()}/RECORD"
        wheel.writestr(listed, "\n".join([*record, f"{listed},,", ""]))


def _build(origin: Path, folder: Path) -> None:
    from uv import find_uv_bin

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
