"""Write the core's list of the project's components: which package and extra brings each, and one line about it.

Run it when a component was added: `python tests/first_party.py`. A test fails where the list is old.
"""

from __future__ import annotations

import inspect
import json
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "core" / "src" / "kdtool" / "first_party.json"


def first_party(groups: dict[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """Return kind → component → requirement and description; `groups` maps kinds to groups. Imports each component."""
    kinds = {group: kind for kind, group in groups.items()}
    found: dict[str, dict[str, dict[str, str]]] = {}
    for path in sorted(ROOT.glob("*/pyproject.toml")) + sorted(ROOT.glob("*/*/pyproject.toml")):
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
        for group, points in project.get("entry-points", {}).items():
            for name, value in points.items() if group in kinds else ():  # a library may have groups of its own
                entry = _entry(project["name"], EntryPoint(name, value, group).load())
                found.setdefault(kinds[group], {})[name] = entry
    return {kind: dict(sorted(names.items())) for kind, names in sorted(found.items())}


def _entry(package: str, loaded: Any) -> dict[str, str]:
    extra = getattr(loaded, "extra", "")  # commands have none
    about = inspect.cleandoc(getattr(loaded, "help", "") or loaded.__doc__).partition("\n\n")[0]
    line = " ".join(about.split()).removesuffix(".")
    return {"requirement": f"{package}[{extra}]" if extra else package, "about": line}


if __name__ == "__main__":
    from kdtool._plugins.registry import GROUPS

    TARGET.write_text(json.dumps(first_party(dict(GROUPS)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
