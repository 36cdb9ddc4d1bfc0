"""Run the repository's checks one after the other, and print how long each took.

    python tests/check.py quick [pytest's arguments]     # `bootstrap.py test`: what changed, the core, whole runs
    python tests/check.py ci                             # `bootstrap.py test -m ci`: everything
    python tests/check.py nightly                        # properties and fuzz tests in full, faults at random places

tox calls it in an environment with every package. A check that fails does not stop the next ones; the exit code is the
worst.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packages import ROOT, declared, folders

PYTEST = ("-P", "-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", "--no-loadscope-reorder")
"""A file's tests stay together, since they share what takes long to make, and files begin in a fixed order."""
MOST_DEPENDENTS = 8
"""More packages than this are not tested for a change of one that they require: that is left to `ci`."""


class Check(NamedTuple):
    """One command, with the minutes that it takes on two cores without AVX-512."""

    title: str
    minutes: float
    command: Sequence[str]


def quick(arguments: Sequence[str]) -> Iterator[Check]:
    """Yield lint, types, and the fast tests of the core, of whole runs, and of packages that differ from main."""
    yield from lint()
    yield Check("types", 3, [sys.executable, "tests/type_check.py", "sources"])
    changed = [str(folder.relative_to(ROOT)) for folder in affected()]
    paths = dict.fromkeys(["core", *changed, "tests/test_whole_run.py", "tests/test_documents.py"])
    title = f"tests of {', '.join(paths)}"
    yield Check(title, 5, [sys.executable, *PYTEST, "-m", "not slow and not nightly", *paths, *arguments])


def ci(arguments: Sequence[str]) -> Iterator[Check]:
    """Yield everything that runs on each push."""
    yield from lint()
    yield Check("types", 5, [sys.executable, "tests/type_check.py"])
    wheels = os.environ["KDTOOL_TEST_WHEELS"]
    yield Check("wheels", 1, [sys.executable, "tests/build_wheels.py", wheels])
    yield Check(
        "the core alone, without torch", 5, [sys.executable, "tests/package_alone.py", wheels, "core", *arguments]
    )
    yield Check("README's first commands", 5, [sys.executable, "tests/first_minutes.py"])
    # of the core's tests those that need more than the core
    shared = ("core/tests/test_core_artefacts.py", "core/tests/test_core_fuzz_recipes.py")
    paths = [*shared, "testing", "plugins", "teachers", "students", "losses", "evaluators", "docs", "tests"]
    yield Check("all other tests", 40, [sys.executable, *PYTEST, "-m", "not nightly", *paths, *arguments])


def nightly(arguments: Sequence[str]) -> Iterator[Check]:
    """Yield properties with ten times as many examples, and fuzz tests and faults that are too many for each push."""
    what = ("-m", "nightly or hypothesis", "--hypothesis-profile", "nightly")
    yield Check("properties, fuzz tests and random faults", 120, [sys.executable, *PYTEST, *what, *arguments])


def lint() -> Iterator[Check]:
    """Yield checks that need no kdtool."""
    for command in ("ruff check .", "ruff format --check .", "codespell", "lint-imports --no-cache"):
        yield Check(command, 0.2, command.split())
    for script in ("prose.py", "fragments.py"):
        yield Check(script, 0.1, [sys.executable, f"tests/{script}"])
    yield Check("changelog", 0.1, ["towncrier", "build", "--draft", "--version", "unreleased"])


def affected() -> list[Path]:
    """Return the folders of packages that differ from main, and of those that require them if these are few."""
    names = {declared(folder)["project"]["name"]: folder for folder in folders()}
    files = changed_files()
    changed = {name for name, folder in names.items() if any(file.is_relative_to(folder) for file in files)}
    dependents = {name for name, folder in names.items() if changed & _needs(declared(folder)["project"])} - changed
    few = len(dependents) <= MOST_DEPENDENTS
    if dependents and not few:
        print(f"{len(dependents)} packages require {', '.join(sorted(changed))}; `-m ci` tests these, too", flush=True)
    return [folder for name, folder in names.items() if name in changed or (few and name in dependents)]


def changed_files() -> set[Path]:
    """Return the files that differ from main, uncommitted and new ones included; none outside a clone."""
    base = next((found for name in ("origin/main", "main") if (found := _git("merge-base", "HEAD", name))), ["HEAD"])
    found = [*_git("diff", "--name-only", base[0]), *_git("ls-files", "--others", "--exclude-standard")]
    return {ROOT / file for file in found}


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def _needs(project: dict[str, Any]) -> set[str]:
    extras = project.get("optional-dependencies", {}).values()
    return {
        re.split(r"[^\w.-]", each)[0] for each in (*project.get("dependencies", ()), *(e for x in extras for e in x))
    }


def main(which: str, arguments: Sequence[str]) -> int:
    """Run the checks; return the worst exit code."""
    checks = list({"quick": quick, "ci": ci, "nightly": nightly}[which](arguments))
    print(f"{len(checks)} checks, about {sum(check.minutes for check in checks):.0f} min on two cores:", flush=True)
    print(*(f"  {check.title}" for check in checks), sep="\n", flush=True)
    results = []
    for check in checks:
        print(f"\n=== {check.title}", flush=True)
        start = time.monotonic()
        settings = {**os.environ, "KDTOOL_TEST_DURATIONS": str(ROOT / ".tox" / "durations.tsv")}
        code = subprocess.run(check.command, cwd=ROOT, env=settings, check=False).returncode
        results.append((check.title, code, time.monotonic() - start))
    print("\n=== summary")
    for title, code, seconds in results:
        print(f"{'FAILED' if code else 'ok':>6}  {seconds / 60:5.1f} min  {title}")
    return max(code for _, code, _ in results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
