"""What tests of whole runs look at: weights, rows, text and values of a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["apart", "curves_of", "lines", "path_of", "rows_of", "values", "weights", "without"]


def without(recipe: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return a recipe without some keys."""
    return {key: value for key, value in recipe.items() if key not in keys}


def weights(trained: Path | kdtool.Results, arm: int = 0) -> dict[str, Any]:
    """Return the weights in a model's folder, or of an arm of a run."""
    from safetensors.torch import load_file

    folder = trained if isinstance(trained, Path) else trained.arms[arm].path
    return load_file(folder / "model.safetensors")


def apart(one: Path | kdtool.Results, other: Path | kdtool.Results) -> float:
    """Return the largest difference of a weight of two students."""
    mine, theirs = weights(one), weights(other)
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def path_of(results: kdtool.Results, stage: str) -> Path:
    """Return the folder of a stage."""
    (path,) = (found.path for found in results.stages if found.name == stage)
    return path


def rows_of(results: kdtool.Results, stage: str = "rows") -> list[kdtool.Row]:
    """Return the rows that a run trained on."""
    from kdtool._run.stages.row_files import StoredRows

    stored = StoredRows(path_of(results, stage), "")
    return [stored[number] for number in range(len(stored))]


def lines(file: Path) -> list[Any]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def values(results: kdtool.Results, name: str) -> dict[str, float]:
    """Return the values of a measurement by subject."""
    return {found.subject: found.value for found in results.measurements if found.name == name}


def curves_of(results: Path, arm: str) -> dict[str, dict[int, float]]:
    """Return the numbers of steps by the event log of a run's folder, by name and step; the first of a repeated step."""
    found: dict[str, dict[int, float]] = {}
    for event in map(json.loads, (results / "events.jsonl").read_text(encoding="utf-8").splitlines()):
        if event["event"] == "step_end" and event["arm"] == arm:
            report = event["report"]
            numbers = {name: report[name] for name in ("loss", "learning_rate", "gradient_norm", "tokens", "seconds")}
            numbers |= {f"validation/{name}": value for name, value in report["metrics"].items()}
            for name, term in report["terms"].items():
                numbers |= {f"terms/{name}": term["value"], f"weights/{name}": term["weight"]}
            for name, value in numbers.items():
                found.setdefault(f"train/{name}", {}).setdefault(report["step"], float(value))
    return found
