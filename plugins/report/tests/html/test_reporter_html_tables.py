"""Tables and tiles: quality by arm, sizes and speeds against the teacher's, and formatted numbers.

Arms, seeds and roles are those of the results, whatever subjects are called.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import kdtool
import pytest
from kdtool._results.comparisons import arm_values
from kdtool_report.html.page import page
from kdtool_report.html.summary import Cell, CostCell, Tile, costs, quality, seeds_of, tiles
from kdtool_report.html.wording import Subjects, count, difference, duration, interval, quantity, tick, title

SPACE = "\u00a0"
PASSES = {"timed": "passes", "prompt": "128 tokens"}
ANSWERS = {"timed": "answers", "prompt": "128 tokens"}


def measured(subject: str, value: float, name: str = "perplexity", unit: str = "per token", **more: Any) -> Any:
    return kdtool.Measurement(name, subject, unit, value, 9, **{"higher_is_better": unit != "per token", **more})


def speed(subject: str, value: float, settings: dict[str, str], unit: str = "tokens/s") -> kdtool.Measurement:
    return measured(subject, value, "decode-speed", unit, settings=settings)  # type: ignore[no-any-return]


def given(sample: kdtool.Results, *names: str, **changes: Any) -> kdtool.Results:
    """Return the results of a run that only measured."""
    found = tuple(measured(name, 1.0 + place) for place, name in enumerate(names))
    subjects = tuple(kdtool.Subject(name, "artifact") for name in names)
    fields = {"measurements": found, "subjects": subjects, "comparisons": (), "arms": (), "models": {}, **changes}
    return dataclasses.replace(sample, verdict="one is better", **fields)


@pytest.mark.parametrize("names", [("student-0.5b", "student-1.5b"), ("a-seed0", "a-seed1"), ("teacher", "teacher-2")])
def test_models_that_were_given_are_columns_under_their_own_names(
    sample: kdtool.Results, names: tuple[str, ...]
) -> None:
    results = given(sample, *names)
    table = quality(results, Subjects(results.subjects))
    assert sorted(table.columns) == [(name, name) for name in names]
    assert [cell.seeds for cell in table.rows[0].cells if isinstance(cell, Cell)] == ["", ""]
    assert "Exported" not in page(results)


def test_models_that_are_called_student_and_control_are_not_judged_as_a_run_s(sample: kdtool.Results) -> None:
    html = page(given(sample, "student", "control", comparisons=sample.comparisons))
    assert '<p class="muted">one is better</p>' in html
    assert "equal tokens" not in html


def test_seeds_of_an_arm_are_one_column(sample: kdtool.Results) -> None:
    seeds = [kdtool.Subject(f"student-seed{seed}", "student", seed=seed, arm="student") for seed in (0, 1)]
    for bits in (4, 8):
        name = f"student-seed0-{bits}-bit"
        seeds.append(kdtool.Subject(name, "artifact", seed=0, arm=f"student-{bits}-bit"))
    subjects = Subjects(seeds)
    found = tuple(measured(one.name, 2.0) for one in seeds)
    results = dataclasses.replace(sample, measurements=found, arms=())
    exported = [(f"student-{bits}-bit", f"Exported: {bits}-bit") for bits in (4, 8)]
    assert quality(results, subjects).columns == (("student", "Student"), *exported)
    assert seeds_of(dataclasses.replace(results, values=arm_values(found, seeds))) == 2
    assert subjects.of("student-seed1") == ("student", 1)
    assert subjects.of("of-nobody-seed1") == ("of-nobody-seed1", -1)


def ratios(sample: kdtool.Results, *found: kdtool.Measurement) -> dict[str, str]:
    table = costs(dataclasses.replace(sample, measurements=found), Subjects(sample.subjects))
    (row,) = table.rows
    cells = zip(table.columns, row.cells, strict=True)
    return {arm: cell.ratio for (arm, _), cell in cells if isinstance(cell, CostCell)}


def generates(sample: kdtool.Results, *found: kdtool.Measurement) -> Tile:
    made = tiles(dataclasses.replace(sample, measurements=found), Subjects(sample.subjects))
    return next(tile for tile in made if tile.label == "Generates")


TEACHER, STUDENT = speed("teacher", 20.0, PASSES), speed("student", 50.0, PASSES)
ALIKE, OTHERWISE = speed("student-gguf", 100.0, PASSES), speed("student-gguf", 100.0, ANSWERS)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(
            (TEACHER, STUDENT, OTHERWISE),
            {"student": "2.50 × teacher", "student-gguf": "5.00 × teacher, measured otherwise"},
            id="every cost is held against the teacher's",
        ),
        pytest.param((speed("one", 20.0, PASSES), speed("two", 50.0, PASSES)), {}, id="without a teacher"),
        pytest.param(
            tuple(speed(name, 20.0, PASSES) for name in ("teachers.big", "teachers.small", "student")),
            {"student": "1.00 × teachers.big", "teachers.small": "1.00 × teachers.big"},
            id="of several teachers the first is named",
        ),
        pytest.param(
            (speed("teacher", 8.0, {"files": "a"}, "bytes"), speed("student", 4.0, {"files": "b"}, "bytes")),
            {"student": "0.500 × teacher"},
            id="sizes are compared whatever their files are called",
        ),
    ],
)
def test_costs_are_held_against_the_teacher_s(
    found: tuple[kdtool.Measurement, ...], expected: dict[str, str], sample: kdtool.Results
) -> None:
    assert {arm: ratio.replace(SPACE, " ") for arm, ratio in ratios(sample, *found).items() if ratio} == expected
    shown = page(dataclasses.replace(sample, measurements=found)).replace(SPACE, " ")
    assert all(ratio in shown for ratio in expected.values())


@pytest.mark.parametrize(("gguf", "value"), [(OTHERWISE, "2.50"), (ALIKE, "5.00")])
def test_the_headline_rather_takes_what_was_measured_as_the_teacher_was(
    sample: kdtool.Results, gguf: kdtool.Measurement, value: str
) -> None:
    tile = generates(sample, TEACHER, gguf, STUDENT)
    assert tile.value == f"{value}{SPACE}×"
    assert "otherwise" not in tile.note
    assert generates(sample, TEACHER, gguf).note.endswith("measured otherwise") == (gguf is OTHERWISE)
    busy = speed("teacher", 20.0, {**PASSES, "busy": "other processes took 2 of 2 cores"})
    with pytest.raises(StopIteration):
        generates(sample, busy, gguf, STUDENT)


def test_energy_is_a_cost_and_no_score(sample: kdtool.Results) -> None:
    energy = measured("student", 1.25, "energy-per-token", "J/token", higher_is_better=False)
    rows = costs(dataclasses.replace(sample, measurements=(energy,)), Subjects(sample.subjects)).rows
    shown = {row.heading: (row.unit, row.cells[0].value) for row in rows if row.cells[0]}
    assert shown == {"Energy per token": ("J/token", "1.25")}


@pytest.mark.parametrize(
    ("value", "unit", "spread", "text"),
    [
        (12.0834, "per token", 0.4, "12.08"),
        (12.0834, "per token", None, "12.1"),
        (0.581, "fraction", 0.031, "58.1 %"),
        (134_515_008, "parameters", None, "135 M"),
        (999_600, "bytes", None, "1.00 MB"),
        (0.0891, "s", None, "89.1 ms"),
        (561, "s", None, "9 min 21 s"),
        (7300, "s", None, "2 h 01 min"),
        (-0.0001, "", 1.0, "0.0"),
        (float("nan"), "", None, "not a number"),
        (1.3e52, "per token", None, "1.30e+52"),
    ],
)
def test_quantities(value: float, unit: str, spread: float | None, text: str) -> None:
    assert quantity(value, unit, spread=spread).replace("\u00a0", " ") == text


def test_differences_carry_a_sign_and_shared_units_are_said_once() -> None:
    assert difference(-0.185, "per token", relative=True, spread=0.05) == "−18.5\u00a0%"
    assert difference(0.053, "fraction", relative=False, spread=0.03) == "+5.3\u00a0points"
    assert interval(0.55, 0.61, "fraction") == "55.0 to 61.0\u00a0%"
    assert interval(900e3, 1.2e6, "bytes") == "900\u00a0kB to 1.20\u00a0MB"
    assert tick("+20.0\u00a0%") == "+20\u00a0%"
    assert tick("200") == "200"
    assert tick("+1.00e+50\u00a0%") == "+1e+50\u00a0%"
    assert difference(float("inf"), "fraction", relative=True) == "+∞"
    assert difference(4e49, "per token", relative=True, spread=float("inf")) == "+4.00e+51\u00a0%"
    assert count(49152) == "49\u202f152"
    assert duration(0) == "0\u00a0ms"


def test_headings_set_the_evaluator_off_and_keep_numbers_and_short_names() -> None:
    assert title("samples.distinct-words") == "Samples: distinct words"
    assert [title("kl-to-teacher"), title("top-1-agreement")] == ["KL to teacher", "Top-1 agreement"]


def test_published_figures_stand_beside_the_run_s_own(sample: kdtool.Results) -> None:
    claim = {"measurement": "perplexity", "value": 20.0, "source": "a <b>paper</b>"}
    row = page(dataclasses.replace(sample, recipe={"claims": [claim]})).partition("Published figures")[2]
    assert '<th scope="row">perplexity of student</th><td data-label="Published">20.0</td>' in row
    assert "a &lt;b&gt;paper&lt;/b&gt;" in row
