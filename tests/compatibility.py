"""Try plugins and cores of different versions together: what users have after they upgrade one and not the other.

    python tests/compatibility.py                    # all plugins
    python tests/compatibility.py kdtool-loss-ce     # some of them

1. The plugins of the last tagged version run on today's core, as far as they admit its version.
2. Today's plugins run on the oldest tagged core that they and the libraries of theirs admit.

To run is to be installed with pip's rules, to pass `kdtool plugins check`, and to pass the package's quick tests. Test files
that use private parts of the core are left out, since only the public interface is promised.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from packages import ROOT
from packaging.requirements import Requirement
from packaging.version import Version
from publishing_order import wheel_of

__all__ = ["State", "Trial", "plan", "prove"]

CORE = "kdtool"
TODAY = "HEAD"
LOCK = ROOT / "locks" / "test.txt"
PRIVATE = re.compile(r"\bkdtool\._|^(from|import) toy\b", re.MULTILINE)
"""What test files use that a plugin may not rely on; `toy` is a module of the core's tests."""


@dataclass(frozen=True)
class State:
    """The packages of a revision, in a folder."""

    revision: str
    folder: Path

    @property
    def version(self) -> Version:
        """The version of all packages."""
        return Version((self.folder / "VERSION").read_text(encoding="utf-8").strip())

    @cached_property
    def projects(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """Folder and declaration of each package, by its name."""
        paths = [path for pattern in ("*", "*/*") for path in sorted(self.folder.glob(f"{pattern}/pyproject.toml"))]
        declared = {path.parent: tomllib.loads(path.read_text(encoding="utf-8")) for path in paths}
        return {text["project"]["name"]: (folder, text) for folder, text in declared.items()}

    def admits(self, name: str, core: Version) -> bool:
        """Return whether a package and all that it needs of its own state admit a version of the core."""
        seen, waiting = {CORE}, [name]
        while waiting:
            name = waiting.pop()
            seen.add(name)
            for requirement in map(Requirement, self.projects[name][1]["project"].get("dependencies", [])):
                if requirement.name == CORE and not requirement.specifier.contains(core, prereleases=True):
                    return False
                if requirement.name in self.projects and requirement.name not in seen:
                    waiting.append(requirement.name)
        return True


@dataclass(frozen=True)
class Trial:
    """Plugins of one state that are tried on the core of another."""

    core: State
    plugins: State
    names: tuple[str, ...]

    def __str__(self) -> str:
        """Return what is tried, for messages."""
        plugins, core = self.plugins, self.core
        return (
            f"{len(self.names)} packages of {plugins.revision} ({plugins.version}) "
            f"on the core of {core.revision} ({core.version})"
        )


def plan(repository: Path, work: Path, only: Sequence[str] = ()) -> Iterator[Trial]:
    """Yield what has to be tried, and print what does not.

    Args:
        repository: a clone with its tags.
        work: an empty folder for its states.
        only: the packages to try; all if empty.
    """
    today = _export(repository, TODAY, work)
    tags = _git(repository, "tag", "--list", "v*", "--merged", TODAY).decode().split()
    tagged = sorted((_export(repository, tag, work) for tag in tags), key=lambda state: state.version)
    if not tagged:
        print("nothing to try: no version is tagged yet")
        return
    last = tagged[-1]
    names = _chosen(last, only)
    admitting = tuple(name for name in names if last.admits(name, today.version))
    print(f"{len(names) - len(admitting)} packages of {last.revision} do not admit today's core ({today.version})")
    if admitting:
        yield Trial(today, last, admitting)
    waiting = _chosen(today, only)
    for core in tagged:
        if oldest := tuple(name for name in waiting if today.admits(name, core.version)):
            waiting = [name for name in waiting if name not in oldest]
            yield Trial(core, today, oldest)
    print(f"{len(waiting)} packages of today do not admit any tagged core")


def _chosen(state: State, only: Sequence[str]) -> list[str]:
    return [name for name in state.projects if name != CORE and (not only or name in only)]


def _export(repository: Path, revision: str, work: Path) -> State:
    folder = work / revision
    with tarfile.open(fileobj=io.BytesIO(_git(repository, "archive", revision))) as archive:
        archive.extractall(folder, filter="data")
    return State(revision, folder)


def _git(repository: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", repository, *arguments], check=True, capture_output=True).stdout


def prove(trial: Trial, work: Path) -> int:
    """Install a trial's packages into a fresh environment, import and test them; return the first bad exit code."""
    environment = work / "environment"
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    tree = shutil.copytree(trial.plugins.folder, work / "tree")
    # The settings of all tests know private parts of the core, so they are those of the core's state.
    shutil.copy(trial.core.folder / "conftest.py", tree)
    try:
        subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, environment], check=True)
        install: list[str | Path] = ["uv", "pip", "install", "--quiet", "--no-sources", "--python", python]
        subprocess.run([*install, *_requirements(trial, _build(trial, work / "wheels"))], check=True)
        subprocess.run([python, "-P", "-m", "kdtool", "plugins", "check"], check=True, cwd=work)
        if tests := list(_tests(trial)):
            command: list[str | Path] = [python, "-P", "-m", "pytest", "-m", "not slow", *tests]
            subprocess.run(command, check=True, cwd=tree)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def _build(trial: Trial, wheels: Path) -> Path:
    """Build the core of one state and the other packages of the other."""
    plugins = [folder for name, (folder, _) in trial.plugins.projects.items() if name != CORE]
    command: list[str | Path] = [
        "uv",
        "build",
        "--quiet",
        "--wheel",
        "--no-sources",
        "--build-constraint",
        LOCK,
        "--out-dir",
        wheels,
    ]
    for folder in (trial.core.projects[CORE][0], *plugins):
        subprocess.run([*command, folder], check=True)
    return wheels


def _requirements(trial: Trial, wheels: Path) -> list[str | Path]:
    """Return arguments for `uv pip install`: the packages of a trial, and what their tests need."""
    links = [f"--find-links={folder}" for folder in (wheels, *os.environ.get("UV_FIND_LINKS", "").split(",")) if folder]
    known = [f"--constraint={file}" for file in (ROOT / "constraints.txt", LOCK)]
    # Files rather than names: the index may have packages of the same version.
    ours = [wheel_of(name, wheels) for name in (CORE, *trial.names)]
    projects = [trial.plugins.projects[name] for name in trial.names]
    groups = [f"--group={folder / 'pyproject.toml'}:test" for folder, text in projects if "test" in _groups(text)]
    return [*links, *known, *ours, *groups, "pytest"]


def _groups(declared: dict[str, Any]) -> dict[str, Any]:
    groups: dict[str, Any] = declared.get("dependency-groups", {})
    return groups


def _tests(trial: Trial) -> Iterator[Path]:
    """Yield the paths, within their state, of test files that use the public interface only, and name the others."""
    for name in trial.names:
        for path in sorted(trial.plugins.projects[name][0].glob("tests/test_*.py")):
            if PRIVATE.search(path.read_text(encoding="utf-8")):
                print(f"left out, since it uses private parts of the core: {path.relative_to(trial.plugins.folder)}")
            else:
                yield path.relative_to(trial.plugins.folder)


def main(arguments: list[str]) -> int:
    """Try everything; return the last bad exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("only", nargs="*", metavar="PACKAGE")
    options = parser.parse_args(arguments)
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, trial in enumerate(plan(ROOT, Path(folder, "states"), options.only)):
            print(trial, flush=True)
            work = Path(folder, str(number))
            work.mkdir()
            worst = prove(trial, work) or worst
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
