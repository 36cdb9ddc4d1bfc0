"""Arms, seeds and roles are what the results say, whatever subjects are called."""

from __future__ import annotations

import dataclasses

import kdtool
import pytest
from kdtool_report.html.page import page
from kdtool_report.html.summary import Cell, quality, seeds_of
from kdtool_report.html.wording import Subjects

Results = kdtool.Results


def _measured(name: str, value: float = 2.0, what: str = "perplexity", unit: str = "per token") -> kdtool.Measurement:
    return kdtool.Measurement(what, name, unit, value, 9, False)


def _given(sample: Results, *names: str) -> Results:
    """Return the results of a run that only measured."""
    measured = tuple(_measured(name, 1.0 + place) for place, name in enumerate(names))
    subjects = tuple(kdtool.Subject(name, "artifact") for name in names)
    return dataclasses.replace(
        sample, measurements=measured, subjects=subjects, comparisons=(), arms=(), models={}, verdict="one is better"
    )


@pytest.mark.parametrize(
    "names",
    [
        ("student-0.5b", "student-1.5b"),
        ("student-1", "student-2"),
        ("student", "student-2"),
        ("control", "control-2"),
        ("a-seed0", "a-seed1"),
        ("teacher", "teacher-2"),
    ],
)
def test_models_that_were_given_are_columns_under_their_own_names(sample: Results, names: tuple[str, ...]) -> None:
    results = _given(sample, *names)
    table = quality(results, Subjects(results.subjects))
    assert sorted(table.columns) == [(name, name) for name in names]
    assert [cell.seeds for cell in table.rows[0].cells if isinstance(cell, Cell)] == ["", ""]
    assert "Exported" not in page(results)


def test_models_that_are_called_student_and_control_are_not_judged_as_a_run_s(sample: Results) -> None:
    results = _given(sample, "student", "control")
    results = dataclasses.replace(results, comparisons=sample.comparisons)
    html = page(results)
    assert '<p class="verdict">one is better</p>' in html
    assert "equal tokens" not in html


def test_seeds_of_an_arm_are_one_column(sample: Results) -> None:
    subjects = Subjects(
        [kdtool.Subject(f"student-seed{seed}", "student", seed=seed, arm="student") for seed in (0, 1)]
        + [
            kdtool.Subject(f"student-seed0-{bits}-bit", "artifact", seed=0, arm=f"student-{bits}-bit")
            for bits in (4, 8)
        ]
    )
    results = dataclasses.replace(
        sample, measurements=tuple(map(_measured, (one.name for one in subjects.found))), arms=()
    )
    table = quality(results, subjects)
    assert table.columns == (
        ("student", "Student"), ("student-4-bit", "Exported: 4-bit"), ("student-8-bit", "Exported: 8-bit"),
    )  # fmt: skip
    assert seeds_of(results, subjects) == 2
    assert subjects.of("student-seed1") == ("student", 1)
    assert subjects.of("of-nobody-seed1") == ("of-nobody-seed1", -1)
