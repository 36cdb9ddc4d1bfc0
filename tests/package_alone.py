"""Prove that what one package declares is enough: to be installed, imported and listed, and to pass its own tests.

    python tests/package_alone.py WHEELS ENVIRONMENT [arguments for pytest]

tox calls it, for the core (`core…`, `lowest-core`) and for every package (`pkg-NAME`, `lowest-NAME`). It makes a fresh
environment inside tox's own, which then holds the package's wheel and what that requires, nothing else: first without
what tests need (`installed` looks at it), then with the dependency group `test` of the package. In `lowest-NAME`,
everything that the package requires is there in the lowest version that it allows, so its lower bounds are tested.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from install import install
from packages import ROOT, declared, folder_of

__all__ = ["prove"]

CANNOT_BE_LOWEST = {"torch"}
"""Pinned by constraints.txt: older versions have no wheel without CUDA on the package index, so their bound is untested."""


IN_TWO_PROCESSES = ("--numprocesses", "2", "--dist", "loadfile")
"""Arguments for pytest with pytest-xdist: a file's tests stay together, since they share what takes long to make."""


def prove(
    folder: Path,
    wheels: Sequence[Path],
    environment: Path,
    *,
    lowest: bool = False,
    parallel: bool = False,
    pytest: tuple[str, ...] = (),
) -> int:
    """Install the package of `folder` into `environment`, look at it and run its tests; return the first bad exit code."""
    subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)], check=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    what = _requirements(folder, lowest=lowest)
    install(python, wheels, *what)
    look = [str(python), "-I", str(ROOT / "tests" / "installed.py"), declared(folder)["project"]["name"]]
    if code := subprocess.run(look, check=False, cwd=environment).returncode:
        return code
    if not (folder / "tests").is_dir():
        return 0
    install(python, wheels, *what, *_for_tests(folder), *(["pytest-xdist>=3.6"] if parallel else []))
    if lowest and (raised := _raised(folder, python)):
        print("these lower bounds are not what was installed, so they are untested:", *raised, sep="\n  ")
        return 1
    # `-P`: the folder that pytest starts in is no place to import from.
    command = [str(python), "-P", "-m", "pytest", str(folder), *(IN_TWO_PROCESSES if parallel else ()), *pytest]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


def _requirements(folder: Path, *, lowest: bool) -> list[str | Path]:
    name = declared(folder)["project"]["name"]
    return [name, "--resolution", "lowest-direct", "-r", folder / "pyproject.toml"] if lowest else [name]


def _for_tests(folder: Path) -> list[str]:
    """Return what tests need: a dependency group here, an extra in packages of third parties."""
    if "dependency-groups" in declared(folder):
        return ["--group", f"{folder / 'pyproject.toml'}:test"]
    return [f"{declared(folder)['project']['name']}[test]"]


def _raised(folder: Path, python: Path) -> list[str]:
    """Name what the package requires and what stands in the environment in a higher version than the lowest allowed."""
    listed = subprocess.run(["uv", "pip", "freeze", "--python", python], check=True, capture_output=True, text=True)
    frozen = (line.split("==") for line in listed.stdout.splitlines() if "==" in line)
    found = {_canonical(name): version for name, version in frozen}
    raised = []
    for requirement in declared(folder)["project"]["dependencies"]:
        bound = re.fullmatch(r"(?P<name>[\w.-]+)(\[.*\])?>=(?P<lowest>[\d.]+)(,.*)?", requirement)
        if not bound:
            raised.append(f"{requirement}: has no lower bound")
            continue
        name = _canonical(bound["name"])
        if name not in CANNOT_BE_LOWEST and not f"{found[name]}.".startswith(f"{bound['lowest']}."):
            raised.append(f"{requirement}: {found[name]} was installed")
    return raised


def _canonical(name: str) -> str:
    """Return a distribution's name as installers compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(wheels: str, environment: str, pytest: list[str]) -> int:
    """Prove what the environment's name asks for."""
    kind, _, name = environment.partition("-")
    folder = ROOT / "core" if "core" in {kind, name} else folder_of(f"kdtool-{name}")
    alone, lowest = Path(sys.prefix) / "alone", kind == "lowest"
    return prove(folder, [Path(wheels)], alone, lowest=lowest, parallel=True, pytest=tuple(pytest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
