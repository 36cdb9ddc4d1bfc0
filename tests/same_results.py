"""Compare weights and scores of the shipped recipes before and after a change, bit for bit, on one machine.

    python tests/same_results.py record before.json [RECIPE ...]     # in an environment and checkout of before
    python tests/same_results.py record after.json [RECIPE ...]      # the same after the change
    python tests/same_results.py compare before.json after.json

Runs recipes/quickstart.yaml and the recipes of recipes/small, or those named (`small/qad.yaml`), one after the other and
each with a new store and one seed. Takes more than an hour on two quiet cores; recipes that are recorded already are not
run again. small/claude-instruct.yaml needs the server that its head describes. Timings (`efficiency`) are not compared.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
SETTINGS = {"seeds": [0], "trackers": [], "evaluators.efficiency": False}


def main(arguments: list[str]) -> int:
    """Run the named job; return 1 where results differ."""
    match arguments:
        case ["record", file, *names]:
            record(Path(file), [RECIPES / name for name in names])
            return 0
        case ["compare", before, after]:
            lines = differences(*(json.loads(Path(file).read_text(encoding="utf-8")) for file in (before, after)))
            print("\n".join(lines) or "the same weights and scores, bit for bit")
            return int(bool(lines))
    print(__doc__)
    return 2


def record(file: Path, recipes: Sequence[Path] = ()) -> None:
    """Write digests of weights, and scores, of the recipes, or of every one, to `file`."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for recipe in recipes or (RECIPES / "quickstart.yaml", *sorted(RECIPES.glob("small/*.yaml"))):
        name = recipe.relative_to(RECIPES).as_posix()
        if name not in found:
            found[name] = results_of(recipe)
            file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def results_of(recipe: Path) -> dict[str, str]:
    """Run a recipe and return the digest of each trained model's weights and the value of each measurement."""
    import kdtool

    with tempfile.TemporaryDirectory(prefix="kdtool-same-") as folder:
        results = kdtool.run(recipe, SETTINGS, out=Path(folder) / "runs", store=Path(folder) / "store")
        found = {f"{arm.arm} {arm.seed}: weights": digest(arm.path) for arm in results.arms}
    for one in results.measurements:
        found[f"{one.subject}: {one.name}"] = float(one.value).hex()
    return found


def digest(folder: Path) -> str:
    """Return one SHA-256 of all weight files below a folder."""
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        whole.update(file.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """Return a line for each figure that differs, or stands on one side alone."""
    lines = []
    for recipe in sorted({*before, *after}):
        old, new = before.get(recipe, {}), after.get(recipe, {})
        wrong = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        lines += [f"{recipe}: {key}: {old.get(key, 'absent')} before, {new.get(key, 'absent')} after" for key in wrong]
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
