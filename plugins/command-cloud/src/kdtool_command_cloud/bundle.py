"""The folder that is sent to the rented machine: the recipe, the files that it names, and wheels."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import kdtool
import yaml

from kdtool_command_cloud.forecast import Forecast, strings
from kdtool_command_cloud.wheels import write_wheels

__all__ = ["WHEELS", "write_bundle"]

WHEELS = "wheels"
"""Folder of the bundle with wheels."""


def write_bundle(recipe: Path, needs: Forecast, folder: Path) -> list[str]:
    """Write recipe, files and wheels into a folder; files of the same name are replaced.

    Args:
        recipe: the recipe's file.
        needs: the forecast, with the recipe's components.
        folder: the bundle.

    Returns:
        Requirements of plugins that the machine installs from an index.

    Raises:
        UsageError: the recipe names a file outside its folder, which the machine could not find at that place.
        StorageError: a wheel cannot be built.
    """
    files = list(_files(recipe, needs))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    (folder / ".skyignore").write_text("", encoding="utf-8")  # else SkyPilot leaves out what .gitignore names
    for path in files:
        target = folder / path.relative_to(recipe.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copy(path, target)
    names = {part["distribution"] for part in needs.components} - {""}
    return write_wheels({"kdtool", *names}, folder / WHEELS)


def _files(recipe: Path, needs: Forecast) -> Iterator[Path]:
    """Yield the recipe, those that it extends, and the files and folders that settings name."""
    yield recipe
    base = recipe
    while extended := (yaml.safe_load(base.read_text(encoding="utf-8-sig")) or {}).get("extends"):
        yield (base := _inside(recipe, "extends", base.parent / extended))
    for part in needs.components:
        for text in [re.sub(r":\w+$", "", str(part["use"])), *strings(part["config"])]:
            path = recipe.parent / Path(text).expanduser() if text and len(text) < 1000 and "\n" not in text else None
            if path is not None and path.exists():
                yield _inside(recipe, part["name"], path)


def _inside(recipe: Path, key: str, path: Path) -> Path:
    if path.resolve().is_relative_to(recipe.parent.resolve()) and path.resolve() != recipe.parent.resolve():
        return recipe.parent / path.resolve().relative_to(recipe.parent.resolve())
    raise kdtool.UsageError(
        f"{key}: {path} is on this machine only; expected a file below the recipe's folder, which is sent along; move it "
        f"below {recipe.parent.resolve()}"
    )
