"""The files of this machine that a sandbox shows: only those on a list.

Programs see Python's standard library and the shared libraries that it loads. For other languages they also see programs,
libraries and headers of /usr, and the folders of the toolchains. Installed packages are in none of it, except those that are
named: some carry benchmarks with their solutions.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

import kdtool

from kdtool_programs.tasks import SandboxError

_ROOT = PurePosixPath("/python")
"""The place of Python inside, wherever it is installed: below /tmp, a home, or /usr."""
EXECUTABLE = _ROOT / "bin" / "python3"
LIBRARIES = _ROOT / "shared"
PACKAGES = _ROOT / "packages"
_DATA = ("/usr/share/zoneinfo", "/usr/lib/locale/C.utf8")
_PARTS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "include")
_PACKAGES = frozenset(("site-packages", "dist-packages", "node_modules", "site-library", "gems"))
_DEPTH = 5
"""Levels of folders in which to look for packages: /opt/conda/envs/NAME/lib/python3.11/site-packages has five."""
_BESIDE_MODULES = re.compile(
    r"lib-dynload|__pycache__|_sysconfigdata|_test|_ctypes_test|_?xx|__p?hello__|LICENSE|EXTERN"
)
_LOADER = re.compile(r"ld(-linux|64|-musl)?[\w-]*\.so\.\d+$")
_SECONDS = 60.0


@dataclass(frozen=True)
class View:
    """Files and folders that are `shown`, each with its place inside, and those below them that are `covered`."""

    shown: tuple[tuple[Path, PurePosixPath], ...]
    covered: tuple[tuple[Path, PurePosixPath], ...]

    def arguments(self) -> list[str]:
        """Return the arguments for bubblewrap."""
        options = [part for source, target in self.shown for part in ("--ro-bind", str(source), str(target))]
        for source, target in self.covered:
            if source.is_dir():
                options += ["--perms", "0555", "--size", "4096", "--tmpfs", str(target), "--remount-ro", str(target)]
            else:
                options += ["--ro-bind", os.devnull, str(target)]
        return options

    def folders(self) -> list[str]:
        """Return the outermost folders outside of /usr that the user who starts bubblewrap must be able to enter."""
        real = {source if source.is_dir() else source.parent for source, _ in self.shown}
        outer = [folder for folder in sorted(real) if not any(other in folder.parents for other in real)]
        return [str(folder) for folder in outer if not folder.is_relative_to("/usr")]


def base_executable() -> Path:
    """Return the base Python, if this one is a virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


@dataclass(frozen=True)
class Package:
    """An installed package, with the entries that it has in the folder of packages."""

    name: str
    version: str
    entries: tuple[Path, ...]

    @property
    def modules(self) -> list[str]:
        """The modules that programs import."""
        return sorted({name for entry in self.entries if (name := entry.name.partition(".")[0]).isidentifier()})


@cache
def find_package(name: str) -> Package | None:
    """Return the package that is installed under a name next to kdtool; None if there is none, or only a link to one."""
    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError):
        return None
    tops = {file.parts[0] for file in found.files or () if file.suffix != ".pth"} - {"..", "__pycache__"}
    package = Package(name, found.version, tuple(Path(str(found.locate_file(top))) for top in sorted(tops)))
    return package if package.modules else None


def find_packages(names: Iterable[str]) -> list[Package]:
    """Return the packages of these names.

    Raises:
        UsageError: one of them is not installed next to kdtool.
    """
    packages = {name: find_package(name) for name in names}
    if unknown := [name for name, package in packages.items() if package is None]:
        raise kdtool.UsageError(
            f"packages: {', '.join(unknown)}: not installed next to kdtool; expected names of packages as pip lists them: "
            "install it there, or remove it from packages"
        )
    return [package for package in packages.values() if package]


def view_of(toolchains: Sequence[Path] | None, packages: Sequence[Package] = ()) -> View:
    """Return the files for Python and, unless `toolchains` is None, for programs in other languages.

    Raises:
        SandboxError: Python does not report its files, or a toolchain is in a folder that cannot be shown.
    """
    python = _python(
        base_executable(), tuple(dict.fromkeys(entry for package in packages for entry in package.entries))
    )
    if toolchains is None:
        return python
    places = [Path("/usr") / part for part in _PARTS] + [Path("/usr/local") / part for part in _PARTS]
    places += [Path("/") / part for part in _PARTS if not (Path("/") / part).is_symlink()]
    outer = _outer([*(path for path in places if path.is_dir()), *(folder.resolve() for folder in toolchains)])
    if hidden := [folder for folder in outer if folder.is_relative_to("/tmp")]:  # noqa: S108 (the sandbox's own)
        raise SandboxError(
            f"the toolchain in {hidden[0]} cannot be shown to programs: their own folder is /tmp; install it elsewhere"
        )
    of_python = [(source, path) for source, path in python.shown if not _is_below(Path(path).resolve(), outer)]
    return View(
        (*((folder, PurePosixPath(folder)) for folder in outer), *of_python),
        (*((package, PurePosixPath(package)) for folder in outer for package in _packages(folder)), *python.covered),
    )


def system_parts() -> list[str]:
    """Return the arguments for links such as /bin, which leads to /usr/bin."""
    links = [Path("/") / part for part in _PARTS if (Path("/") / part).is_symlink()]
    return [part for link in links for part in ("--symlink", str(link.readlink()), str(link))]


@cache
def _python(executable: Path, packages: tuple[Path, ...]) -> View:
    inventory = _inventory(executable, packages)
    prefixes, modules = [Path(prefix) for prefix in inventory["prefixes"]], frozenset(inventory["modules"])
    folders = _outer(Path(folder) for folder in inventory["path"])
    library = [(folder.resolve(), _place(folder, prefixes)) for folder in folders]
    shared = [Path(path) for path in inventory["libraries"] if not _is_below(Path(path), [*folders, *packages])]
    loaders = [path for path in shared if _LOADER.match(path.name)]
    shown = [(executable, EXECUTABLE), *library]
    shown += [(path.resolve(), PurePosixPath(path) if path in loaders else LIBRARIES / path.name) for path in shared]
    shown += [(entry.resolve(), PACKAGES / entry.name) for entry in packages]
    shown += [(Path(data), PurePosixPath(data)) for data in _DATA if Path(data).is_dir()]
    covered = [
        (path, shown_as / path.relative_to(folder))
        for folder, shown_as in library
        if folder.is_dir()
        for path in _beside_modules(folder, modules)
    ]
    return View(tuple(shown), tuple(covered))


def _inventory(executable: Path, packages: Iterable[Path]) -> dict[str, list[str]]:
    command = [str(executable), "-I", "-S", "-B", "-W", "ignore", str(Path(__file__).with_name("inventory.py"))]
    command += map(str, packages)
    try:
        completed = subprocess.run(command, capture_output=True, check=True, text=True, timeout=_SECONDS)  # noqa: S603 (Python)
        inventory: dict[str, list[str]] = json.loads(completed.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise SandboxError(
            f"{executable} does not report the files of its standard library: {reason}; "
            "expected a Python that starts with -I -S; install kdtool in another one"
        ) from error
    return inventory


def _beside_modules(folder: Path, modules: frozenset[str]) -> Iterator[Path]:
    """Yield the entries next to the modules of the standard library, except links, whose targets are hidden."""
    for path in sorted(folder.iterdir()):
        if (
            not path.is_symlink()
            and path.name.partition(".")[0] not in modules
            and not _BESIDE_MODULES.match(path.name)
        ):
            yield path
        elif path.name in {"lib-dynload", "__pycache__"}:
            yield from _beside_modules(path, modules)


@cache
def _packages(folder: Path) -> tuple[Path, ...]:
    """Return the folders of installed packages below one."""
    packages = []
    for parent, names, _ in os.walk(folder):
        packages += [Path(parent, name) for name in names if name in _PACKAGES and not Path(parent, name).is_symlink()]
        deep = len(Path(parent).relative_to(folder).parts) + 1 >= _DEPTH
        names[:] = [] if deep else [name for name in names if name not in _PACKAGES]
    return tuple(sorted(packages))


def _outer(folders: Iterable[Path]) -> list[Path]:
    """Return the folders that are in none of the others."""
    every = sorted(set(folders))
    return [folder for folder in every if not any(other in folder.parents for other in every)]


def _place(path: Path, prefixes: Sequence[Path]) -> PurePosixPath:
    within = next((prefix for prefix in prefixes if path.is_relative_to(prefix)), None)
    return PurePosixPath(path) if within is None else _ROOT / path.relative_to(within)


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
