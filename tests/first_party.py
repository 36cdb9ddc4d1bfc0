"""Write core's list of which package of the project brings which component, for names that are not installed.

Run it when a component was added: `python tests/first_party.py`. A test fails where the list is old.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "core" / "src" / "kdtool" / "first_party.json"


def package_files() -> list[Path]:
    """Return the pyproject.toml of every package of plugins or of a library that they use."""
    return sorted(ROOT.glob("*/*/pyproject.toml"))


def first_party(groups: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return kind → component → distribution, read from the packages' metadata; `groups` maps kinds to groups."""
    kinds = {group: kind for kind, group in groups.items()}
    found: dict[str, dict[str, str]] = {}
    for path in package_files():
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        for group, points in project.get("entry-points", {}).items():
            for name in points if group in kinds else ():  # a library may have groups of its own
                found.setdefault(kinds[group], {})[name] = project["name"]
    return {kind: dict(sorted(names.items())) for kind, names in sorted(found.items())}


if __name__ == "__main__":
    from kdtool._plugins.registry import GROUPS

    TARGET.write_text(json.dumps(first_party(dict(GROUPS)), indent=1) + "\n", encoding="utf-8")
