"""Distributions as pip would have installed them, in a folder for `sys.path`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from kdtool._plugins import distributions, registry


def install(site: Path, name: str, entry_points: str, files: dict[str, str], metadata: str | None = None) -> None:
    """Write a distribution as pip would have installed it, without pip."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: about {name}\n"
    (info / "METADATA").write_text(about if metadata is None else metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    for path, text in files.items():
        file = site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    forget_installed()


def forget_modules(folder: Path) -> None:
    """Have the next import of a module from this folder read it again, as a new process would."""
    for name, module in [*sys.modules.items()]:
        spec = getattr(module, "__spec__", None)
        places = [getattr(spec, "origin", None), *(getattr(spec, "submodule_search_locations", None) or ())]
        if any(str(place).startswith(str(folder)) for place in places):
            del sys.modules[name]


def forget_installed() -> None:
    """Make the registry look again at what is installed."""
    importlib.invalidate_caches()
    registry._all_entries.cache_clear()
    for cached in (distributions.points, distributions.origin_of, distributions.module_origin):
        cached.cache_clear()
