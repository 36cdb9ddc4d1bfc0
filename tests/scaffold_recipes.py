"""Run the recipe of every package that `kdtool new` made, with a tiny teacher in place of the one that is fetched.

    python scaffold_recipes.py FOLDER

`scaffolds` calls it with the Python of an environment where `kdtool[all]` and all packages below FOLDER are installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import kdtool
import torch
from kdtool_testing.tiny_models import save_tiny


def main(folder: Path) -> int:
    """Run all recipes, say which failed, and return 1 if one did."""
    torch.set_num_threads(1)
    save_tiny(folder / "tiny")
    failed = []
    for recipe in sorted(folder.glob("kdtool-*/recipe.yaml")):
        try:
            _run(recipe, folder)
        except Exception as error:  # whatever a plugin raises
            print(f"{recipe.parent.name}: {type(error).__name__}: {error}", flush=True)
            failed.append(recipe.parent.name)
    print("these recipes fail:" if failed else "all recipes run", *failed)
    return bool(failed)


def _run(recipe: Path, folder: Path) -> None:
    kind = recipe.parent.name.split("-")[1]
    settings: dict[str, object] = {"trackers.console": False}
    if kind != "teacher":
        settings |= {"teacher.use": "causal-lm", "teacher.model": str(folder / "tiny"), "teacher.dtype": "float32"}
    results = kdtool.run(recipe, settings, out=folder / "runs", store=folder / "store")
    used = {component.distribution for component in results.components}
    if kind != "command" and recipe.parent.name not in used:
        raise ValueError(f"it took no part; these did: {sorted(used)}")
    if results.report is None or not results.report.is_file():
        raise ValueError("there is no report")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
