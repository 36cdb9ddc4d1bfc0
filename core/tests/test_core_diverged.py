"""A seed that diverged leaves a run with results: bounds without end, in every table and file that shows them."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._api import report
from kdtool._results.files import read_results
from toy_recipe import Recipe

DIVERGED = """
import json
import re
from math import exp
import kdtool


class Diverged(kdtool.Evaluator):
    def kdtool_evaluate(self, run, subjects):
        for subject in subjects:
            nats = 120.0 if (subject.role, subject.seed) == ("student", 0) else 5.0
            items = run.folder / "items.jsonl"
            rows = [{"item": str(one), "sum": nats + one / 10, "weight": 1.0} for one in range(4)]
            items.write_text("".join(json.dumps(row) + "\\n" for row in rows))
            value = exp(sum(row["sum"] for row in rows) / 4)
            yield kdtool.Measurement(
                "perplexity", subject.name, "per token", value, 4, False, value / 2, value * 2, {}, items, "exp"
            )
"""


@pytest.fixture
def diverged(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The toy recipe, in which the student's perplexity with seed 0 is beyond all bounds."""
    (tmp_path / "diverged.py").write_text(DIVERGED, encoding="utf-8")
    return {**recipe, "evaluators": {"diverged": {"use": "./diverged.py:Diverged"}}}


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def test_the_run_has_results_that_are_read_again_and_a_report(diverged: Recipe) -> None:
    diverged["require"] = {"diverged.perplexity": "better than control"}
    with pytest.raises(kdtool.TargetMissedError, match=r"difference .*, 95 % interval -100 to \+∞"):
        kdtool.run(diverged)
    folder = Path("runs/toy").absolute()
    plain = json.loads((folder / "results.json").read_text(encoding="utf-8"), parse_constant=_no_constant)
    results = read_results(folder)
    (found,) = [one for one in results.comparisons if (one.arm, one.against) == ("student", "control")]
    assert (found.low, found.high, found.verdict) == (-1.0, inf, "no evidence of a difference")
    assert plain["comparisons"][0]["high"] == "Infinity"
    assert found.difference > 1e49
    assert "e+51 %, 95 % interval -100 to +∞" in results.verdict
    assert "to +∞" in report(folder).read_text(encoding="utf-8")
    assert "to +∞" in (folder / results.arms[0].artifacts[0].path.parent / "README.md").read_text(encoding="utf-8")
