"""Students of a study, trained by recipes and measured, and paired differences between them.

`Trainings` trains what is missing and remembers what was found in a JSON Lines file, so that a second call goes on.
Comparisons are those of `kdtool run`: paired by document and seed, with its 95 % intervals over both.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import kdtool
from held_out_figures import MEASURES, HeldOut
from kdtool._results.comparisons import compare, read_items
from kdtool_torch import compute_dtype, pick_device
from kdtool_transformers import open_model
from study import JsonLines


class Trainings:
    """Students that were trained and measured; trains those that are missing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._items = folder, folder / "held-out"
        self.found = JsonLines(folder / "trainings.jsonl")
        self._held_out = HeldOut(self._items)

    def train(self, arm: str, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Train a recipe with a seed and measure the student, if that is not done yet; return the finding.

        The model is removed once it is measured. Signals and adapted teachers stay in the store, where other runs find them.
        """
        before = self.found.where(arm=arm, seed=seed)
        if before:
            return before[0]
        name = _name(arm, seed)
        results = self.run(name, {**settings, "seeds": [seed]})
        (student,) = (arm for arm in results.arms if arm.arm == "student")
        done = list(student.phases.values())[-1]
        model = open_model(student.path, dtype=compute_dtype("auto", pick_device()))
        line: dict[str, Any] = {
            "arm": arm,
            "seed": seed,
            "steps": done.steps,
            "tokens": done.tokens,
            "signal_bytes": signal_bytes(results),
            **{found.name: found.value for found in self._held_out.measure(model, name, seed)},
        }
        self.found.add(line)
        shutil.rmtree(results.folder)
        print(" ".join(f"{key}={value}" for key, value in line.items()), flush=True)
        return line

    def run(self, name: str, settings: Mapping[str, Any]) -> kdtool.Results:
        """Run a recipe in the study's folder."""
        return kdtool.run({**settings, "name": name}, out=self.folder / "runs", store=self.folder / "store")

    def teacher(self) -> dict[str, float]:
        """Measure the teacher itself, once."""
        before = self.found.where(arm="teacher")
        if not before:
            figures = self._held_out.measure(self._held_out.teacher, "teacher", 0)
            self.found.add({"arm": "teacher", **{found.name: found.value for found in figures}})
        return self.found.where(arm="teacher")[0]

    def compared(self, measure: str, arm: str, control: str, seeds: Sequence[int]) -> kdtool.Comparison:
        """Compare two arms that were both trained with these seeds, with the interval that `kdtool run` reports."""
        pairs = [(self._measurement(measure, arm, seed), self._measurement(measure, control, seed)) for seed in seeds]
        found = compare(arm, control, pairs)
        assert found is not None
        return found

    def between(self, arm: str, steps: float, ladder: Mapping[int, str], seeds: Iterable[int]) -> None:
        """Add `arm`, which was not trained: what the arms of a ladder of steps would have at `steps`, by interpolation.

        Every document's figures are interpolated linearly in the logarithm of steps between the two neighbours; beyond the
        ladder's ends they are those of the end.
        """
        rungs = sorted(ladder)
        upper = next((rung for rung in rungs if rung >= steps), rungs[-1])
        lower = max((rung for rung in rungs if rung <= steps), default=rungs[0])
        share = log(steps / lower) / log(upper / lower) if upper > lower else 0.0
        for seed in seeds:
            lines = [self.found.where(arm=ladder[rung], seed=seed)[0] for rung in (lower, upper)]
            for measure in MEASURES:
                tables = [read_items(self._file(measure, line["arm"], seed)) for line in lines]
                rows = [
                    {"item": item, "sum": (1 - share) * low + share * tables[1][item][0], "weight": weight}
                    for item, (low, weight) in tables[0].items()
                ]
                text = "".join(json.dumps(row) + "\n" for row in rows)
                self._file(measure, arm, seed).write_text(text, encoding="utf-8")

    def whole_seeds(self, arms: Iterable[str]) -> list[int]:
        """Return the seeds that all of these arms were trained with."""
        return sorted(set.intersection(*({line["seed"] for line in self.found.where(arm=arm)} for arm in arms)))

    def _measurement(self, measure: str, arm: str, seed: int) -> kdtool.Measurement:
        """Return a trained arm's figure, read from its documents."""
        about, items = MEASURES[measure], self._file(measure, arm, seed)
        table = read_items(items).values()
        value = sum(total for total, _ in table) / sum(weight for _, weight in table)
        better = about.higher_is_better
        return kdtool.Measurement(measure, arm, about.unit, value, len(table), higher_is_better=better, items=items)

    def _file(self, measure: str, arm: str, seed: int) -> Path:
        return self._items / f"{measure}.{_name(arm, seed)}.items.jsonl"


def signal_bytes(results: kdtool.Results) -> int | None:
    """Return the size on disk of the signals that a run learned from; None where the teacher ran beside it."""
    stages = [stage.path for stage in results.stages if stage.name.startswith("signals")]
    files = [file for path in stages for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) if stages else None


def _name(arm: str, seed: int) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', arm.lower())}-seed{seed}"
