"""Look at one installed distribution: everything in it can be imported, its components are listed, no sibling is there.

`package_alone` runs it with the environment's own Python. It may use the standard library and kdtool, nothing else.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution, distributions

__all__ = ["problems"]


def problems(name: str) -> list[str]:
    """Say what is wrong with the distribution `name`."""
    found = distribution(name)
    return [*_siblings(found), *_not_importable(found), *_not_listed(found)]


def _siblings(found: Distribution) -> list[str]:
    """Other packages of the project that are installed although nothing requires them."""
    required: set[str] = set()
    waiting = [found.metadata["Name"]]
    while waiting:
        name = waiting.pop()
        required.add(name)
        needs = [need for need in distribution(name).requires or () if "extra ==" not in need]
        waiting += {re.split(r"[^\w.-]", need)[0] for need in needs if need.startswith("kdtool")} - required
    there = {each.metadata["Name"] for each in distributions() if each.metadata["Name"].startswith("kdtool")}
    return [f"{name} is installed and nothing requires it" for name in sorted(there - required)]


def _not_importable(found: Distribution) -> list[str]:
    packages = {path.parts[0] for path in found.files or () if path.name == "__init__.py" and len(path.parts) == 2}
    wrong: list[str] = []
    for package in sorted(packages):
        for module in sorted({package, *_modules(package)}):
            try:
                importlib.import_module(module)
            except (Exception, SystemExit) as error:  # whatever an import raises
                if isinstance(error, ModuleNotFoundError) and (error.name or "").lower() in _of_extras(found):
                    continue  # what the module needs comes with an extra, which is not installed here
                wrong.append(f"{module} cannot be imported: {type(error).__name__}: {error}")
    return wrong


def _of_extras(found: Distribution) -> set[str]:
    """Modules that extras of a distribution bring, as far as they are called as their distributions are."""
    needs = [need for need in found.requires or () if "extra ==" in need]
    return {re.split(r"[^\w.-]", need)[0].replace("-", "_").lower() for need in needs}


def _modules(package: str) -> list[str]:
    """All modules of a package but those that run at import (`__main__`)."""
    paths = importlib.import_module(package).__path__
    names = (module.name for module in pkgutil.walk_packages(paths, f"{package}."))
    return [name for name in names if "__main__" not in name.split(".")]


def _not_listed(found: Distribution) -> list[str]:
    command = [sys.executable, "-m", "kdtool", "plugins"]
    listed = json.loads(subprocess.run([*command, "list", "--json"], check=True, capture_output=True, text=True).stdout)
    rows = {(row["kind"], row["name"]) for row in listed if row["distribution"] == found.metadata["Name"]}
    from kdtool._plugins.registry import GROUPS

    kinds = {group: kind for kind, group in GROUPS.items()}
    points = {(kinds[point.group], point.name) for point in found.entry_points if point.group in kinds}
    wrong = [f"{kind} {name} is not listed by `kdtool plugins`" for kind, name in sorted(points - rows)]
    for kind, name in sorted(points - {point for point in points if point[0] == "command"}):
        shown = subprocess.run([*command, "show", name, "--kind", kind], check=False, capture_output=True, text=True)
        if shown.returncode:
            wrong.append(f"`kdtool plugins show {name}` fails: {shown.stderr.strip()}")
    return wrong


if __name__ == "__main__":
    found = problems(sys.argv[1])
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
