"""`RunInfo` of each component: the kind of stage, the arm, the seed, and the phase that is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool

HEARS = '''
import kdtool


class Hears(kdtool.Tracker):
    """Writes down what it is told of each stage."""

    def kdtool_stage_end(self, run, seconds, reused):
        with open("heard.txt", "a", encoding="utf-8") as file:
            file.write(f"{run.stage} {run.arm} {run.seed} {run.phase or '-'}\\n")
'''


def test_phases_are_told_apart_by_name(recipe: dict[str, Any]) -> None:
    Path("hears.py").write_text(HEARS, encoding="utf-8")
    train = recipe.pop("train")
    shared = {**recipe, "seeds": [0], "control": False, "trackers": {"hears": {"use": "./hears.py:Hears"}}}
    kdtool.run({**shared, "train": {"first": train, "second": train}})
    heard = Path("heard.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in heard if line.startswith("phases")] == [
        "phases student 0 first",
        "phases student 0 second",
    ]
    assert all(line.endswith(" -") for line in heard if not line.startswith("phases"))
