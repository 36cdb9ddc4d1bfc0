"""The repository's packages and their declarations, for the scripts beside this file that tox calls.

Knows no package by name, and neither installs nor builds.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "declared", "folder_of", "folders"]

ROOT = Path(__file__).resolve().parent.parent


def folders() -> list[Path]:
    """Return the folders of all packages, the core first."""
    return [
        path.parent for pattern in ("core", "testing", "*/*") for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    ]


def folder_of(name: str) -> Path:
    """Return the folder of the distribution called `name`."""
    for folder in folders():
        if declared(folder)["project"]["name"] == name:
            return folder
    raise SystemExit(f"no package of this repository is called {name}")


def declared(folder: Path) -> dict[str, Any]:
    """Return what a package's pyproject.toml says."""
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
