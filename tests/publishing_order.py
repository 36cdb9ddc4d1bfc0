"""Print the order in which packages enter the package index, a line for each day: the index admits few new names a day.

    python tests/publishing_order.py                      # all days
    python tests/publishing_order.py --per-day 8          # with two accounts on two networks
    python tests/publishing_order.py --wheels DIST        # files instead of names
    python tests/publishing_order.py --wheels DIST 3      # those of the third day

The core comes first, then what its extra `quickstart` needs, then the rest. A package comes after all that it needs, so
what is on the index can be installed from there on every day.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from packages import ROOT, declared, folders

__all__ = ["PER_DAY", "order", "wheel_of"]

PER_DAY = 4
"""New names that the Python package index admits in 24 hours from one account or one network address."""


def order(projects: dict[str, list[str]], first: list[str]) -> list[str]:
    """Return the names of `projects`, each after those that it needs; `first` and what these need come first.

    Args:
        projects: for each package the names that it requires; names that are not in `projects` are ignored.
        first: the packages to begin with.
    """
    placed: dict[str, None] = {}

    def place(name: str) -> None:
        for needed in projects[name]:
            if needed in projects and needed not in placed:
                place(needed)
        placed[name] = None

    for name in [*first, *sorted(projects)]:
        if name not in placed:
            place(name)
    return list(placed)


def wheel_of(name: str, wheels: Path) -> Path:
    """Return the wheel of a package in a folder."""
    found = list(wheels.glob(f"{name.replace('-', '_')}-*.whl"))
    if len(found) != 1:
        raise SystemExit(f"{wheels} has {len(found)} wheels of {name}, expected 1")
    return found[0]


def _names(requirements: list[str]) -> list[str]:
    return [re.split(r"[^\w.-]", requirement)[0] for requirement in requirements]


def main(arguments: list[str]) -> int:
    """Print the order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("day", nargs="?", type=int, help="print only what is published on this day, one a line")
    parser.add_argument("--per-day", type=int, default=PER_DAY, metavar="COUNT")
    parser.add_argument("--wheels", type=Path, metavar="DIST", help="print the wheels of the packages in this folder")
    options = parser.parse_args(arguments)
    projects = {project["name"]: project for project in (declared(folder)["project"] for folder in folders())}
    needs = {name: _names(project.get("dependencies", [])) for name, project in projects.items()}
    core = declared(ROOT / "core")["project"]
    first = [core["name"], *_names(core["optional-dependencies"]["quickstart"])]
    names = order(needs, first)
    complete = max(map(names.index, first)) // options.per_day + 1
    if options.wheels:
        names = [str(wheel_of(name, options.wheels)) for name in names]
    days = [names[start : start + options.per_day] for start in range(0, len(names), options.per_day)]
    if options.day is not None:
        if not 1 <= options.day <= len(days):
            parser.error(f"there is no day {options.day}: expected 1 to {len(days)}")
        print(*days[options.day - 1], sep="\n")
        return 0
    for day, batch in enumerate(days, 1):
        print(f"day {day:>2}: {' '.join(batch)}")
        if day == complete:
            print("        now the index has all that the extra `quickstart` of the core needs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
