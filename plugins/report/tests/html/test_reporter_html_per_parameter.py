"""Scores per parameter: whose size stands for whom, and pages of models that were only measured."""

from __future__ import annotations

import dataclasses

import kdtool
from kdtool_report.html.page import page
from kdtool_report.html.summary import per_parameter
from kdtool_report.html.wording import Subjects

SUBJECTS = Subjects(
    [
        kdtool.Subject("teacher", "teacher"),
        kdtool.Subject("student", "student", seed=0),
        kdtool.Subject("control", "control", seed=0),
        *(kdtool.Subject(f"student-{label}", "artifact", seed=0) for label in ("safetensors", "gguf", "q4", "big")),
    ]
)


def _measured(name: str, subject: str, unit: str, value: float, higher: bool) -> kdtool.Measurement:
    bounds = (None, None) if unit == "bytes" else (value - 0.1, value + 0.1)
    return kdtool.Measurement(name, subject, unit, value, 9, higher, *bounds)


def _subjects(measured: list[kdtool.Measurement]) -> Subjects:
    """Return the subjects, each an arm of one seed with the interval of its measurement."""
    values = [
        kdtool.ArmValue(one.subject, one.name, one.unit, one.higher_is_better, one.value, one.low, one.high, 1)
        for one in measured
    ]
    return Subjects(SUBJECTS.found, values)


def test_scores_are_divided_by_billions_of_parameters() -> None:
    scores = {"teacher": 0.6, "student": 0.3, "control": 0.2, "student-gguf": 0.25, "other": 0.5}
    measured = [_measured("pass@1", arm, "fraction", value, True) for arm, value in scores.items()]
    measured += [_measured("accuracy", arm, "%", 100 * value, True) for arm, value in scores.items()]
    measured += [_measured("perplexity", arm, "per token", 5.0, False) for arm in scores]
    sizes = {"teacher": 2e9, "student-safetensors": 5e8}
    measured += [_measured("parameters", arm, "parameters", n, False) for arm, n in sizes.items()]
    table = per_parameter(measured, _subjects(measured))
    assert [arm for arm, _ in table.columns] == ["teacher", "student", "control", "student-gguf"]
    assert [row.heading for row in table.rows] == ["Pass@1", "Accuracy"]
    values = [[cell.value for cell in row.cells if cell] for row in table.rows]
    assert values == [["30.0", "60", "40", "50"], ["30.000", "60.00", "40.00", "50.00"]]
    assert getattr(table.rows[0].cells[1], "interval", "") == "40 to 80"


def test_scores_without_different_sizes_are_not_divided() -> None:
    measured = [_measured("pass@1", arm, "fraction", 0.5, True) for arm in ("teacher", "student")]
    assert not per_parameter(measured, SUBJECTS).rows
    assert not per_parameter([*measured, _measured("parameters", "student", "parameters", 1e9, False)], SUBJECTS).rows


def test_page_of_models_that_were_only_measured_says_what_was_compared(sample: kdtool.Results) -> None:
    compared = kdtool.Comparison(
        "pass@1", "one", "two", 0.42, 0.6, -0.18, -0.25, -0.11, False, "worse", 3, 164, (0.7, 0.62, 0.79)
    )
    text = page(dataclasses.replace(sample, arms=(), comparisons=(compared,), verdict="Against two, one is worse."))
    assert '<p class="verdict">Against two, one is worse.</p>' in text
    assert "70.0\u00a0% (62.0 to 79.0\u00a0%)" in text
