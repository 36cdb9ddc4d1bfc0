"""A student that starts from weights that work is measured before training, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def continued(recipe: dict[str, Any]) -> dict[str, Any]:
    """The small recipe, with a student that goes on from the teacher's weights, two seeds, and perplexity."""
    kept = {key: recipe[key] for key in ("name", "teacher", "corpus", "rows", "signals", "trainer", "train")}
    return {
        **kept,
        "seeds": [0, 1],
        "student": {"use": "pretrained", "model": recipe["teacher"]["model"]},
        "evaluators": {"perplexity": {"documents": 4}},
    }


def test_the_base_is_measured_once_before_training_and_compared(continued: dict[str, Any]) -> None:
    results = kdtool.run(continued)
    found = {one.subject: one.value for one in results.measurements if one.name == "perplexity"}
    assert list(found) == ["teacher", "base", "student-seed0", "student-seed1"]
    assert found["base"] == pytest.approx(found["teacher"], rel=1e-4), "the same weights"
    assert found["base"] != pytest.approx(found["student-seed0"], rel=1e-4)
    pairs = {(one.arm, one.against, one.measurement): one.seeds for one in results.comparisons}
    assert pairs["student", "base", "perplexity"] == 2
    names = [stage.name for stage in results.stages]
    assert names.index("scores/perplexity-base") < names.index("phases/student-seed0-train")
    assert "Against itself before training, the student is " in results.verdict
    report = (Path(results.folder) / "report.html").read_text(encoding="utf-8")
    assert "Since before training: perplexity " in report
    assert kdtool.load(Path(results.folder)).subjects == results.subjects


def test_a_student_without_trained_weights_has_no_base(recipe: dict[str, Any]) -> None:
    results = kdtool.run(recipe)
    assert "base" not in {subject.role for subject in results.subjects}
