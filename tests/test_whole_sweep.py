"""A sweep on a tiny real teacher: its signals are recorded once for all points and seeds, and the table is whole."""

from __future__ import annotations

from typing import Any

import pytest
from kdtool_essentials.sweep import sweep

pytestmark = pytest.mark.slow


def test_sweep_pays_the_teacher_once_and_puts_everything_into_one_table(recipe: dict[str, Any]) -> None:
    recipe = {
        **recipe,
        "control": "tokens",
        "evaluators": {key: recipe["evaluators"][key] for key in ("perplexity", "agreement")},
    }
    del recipe["exporters"]
    grid = {"trainer.learning_rate": ["1e-2", "1e-5"]}
    found = sweep(recipe, grid, {"seeds": [0, 1], "train.steps": 8})
    first, second = (point.results for point in found.points)
    assert first is not None
    assert second is not None
    shared = {stage.name.partition("/")[0]: stage.reused for stage in second.stages}
    assert {name for name, reused in shared.items() if reused} >= {"text", "rows", "students", "signals"}
    assert (
        len({stage.fingerprint for run in (first, second) for stage in run.stages if stage.name.startswith("signals")})
        == 1
    )

    tables = {table["measurement"]: table for table in found.tables}
    assert tables["perplexity"]["columns"] == ["teacher", "student", "control"]
    assert tables["top-1-agreement-with-teacher"]["higher_is_better"]
    standings = {row["point"]: row["standing"] for row in tables["perplexity"]["rows"]}
    assert standings == {"learning_rate-0_01": "best", "learning_rate-1e-05": "not shown to differ"}  # of two seeds
    assert all(row["cells"]["student"].low is not None for row in tables["perplexity"]["rows"])
    page = (found.folder / "sweep.md").read_text(encoding="utf-8")
    assert "learning_rate-0_01/report.html" in page
