"""Sizes, speeds and costs beside the teacher's: the ratio, to whom, and whether both were measured alike."""

from __future__ import annotations

import dataclasses

import kdtool
import pytest
from kdtool_report.html.page import page
from kdtool_report.html.summary import CostCell, Tile, costs, tiles
from kdtool_report.html.wording import Subjects

SPACE = "\u00a0"
PASSES = {"timed": "passes", "prompt": "128 tokens"}
ANSWERS = {"timed": "answers", "prompt": "128 tokens"}


def _speed(subject: str, value: float, settings: dict[str, str], unit: str = "tokens/s") -> kdtool.Measurement:
    return kdtool.Measurement("decode-speed", subject, unit, value, 5, True, settings=settings)


def _ratios(sample: kdtool.Results, *measured: kdtool.Measurement) -> dict[str, str]:
    table = costs(dataclasses.replace(sample, measurements=measured), Subjects(sample.subjects))
    (row,) = table.rows
    cells = zip(table.columns, row.cells, strict=True)
    return {arm: cell.ratio for (arm, _), cell in cells if isinstance(cell, CostCell)}


def _generates(sample: kdtool.Results, *measured: kdtool.Measurement) -> Tile:
    found = tiles(dataclasses.replace(sample, measurements=measured), Subjects(sample.subjects))
    return next(tile for tile in found if tile.label == "Generates")


def test_every_cost_is_held_against_the_teacher_s(sample: kdtool.Results) -> None:
    measured = (
        _speed("teacher", 20.0, PASSES),
        _speed("student", 50.0, PASSES),
        _speed("student-gguf", 100.0, ANSWERS),
    )
    ratios = _ratios(sample, *measured)
    assert ratios == {
        "teacher": "",
        "student": f"2.50{SPACE}× teacher",
        "student-gguf": f"5.00{SPACE}× teacher, measured otherwise",
    }
    assert f"2.50{SPACE}× teacher" in page(dataclasses.replace(sample, measurements=measured))


def test_without_a_teacher_there_is_nobody_to_hold_it_against(sample: kdtool.Results) -> None:
    assert set(_ratios(sample, _speed("one", 20.0, PASSES), _speed("two", 50.0, PASSES)).values()) == {""}


def test_of_several_teachers_the_first_is_named(sample: kdtool.Results) -> None:
    measured = [_speed(name, 20.0, PASSES) for name in ("teachers.big", "teachers.small", "student")]
    assert _ratios(sample, *measured)["student"] == f"1.00{SPACE}× teachers.big"


def test_sizes_are_compared_whatever_their_files_are_called(sample: kdtool.Results) -> None:
    measured = [_speed("teacher", 8.0, {"files": "a"}, "bytes"), _speed("student", 4.0, {"files": "b"}, "bytes")]
    assert _ratios(sample, *measured)["student"] == f"0.500{SPACE}× teacher"


@pytest.mark.parametrize(("gguf", "value"), [(ANSWERS, "2.50"), (PASSES, "5.00")])
def test_the_headline_rather_takes_what_was_measured_as_the_teacher_was(
    sample: kdtool.Results, gguf: dict[str, str], value: str
) -> None:
    measured = (_speed("teacher", 20.0, PASSES), _speed("student-gguf", 100.0, gguf), _speed("student", 50.0, PASSES))
    tile = _generates(sample, *measured)
    assert tile.value == f"{value}{SPACE}×"
    assert "otherwise" not in tile.note
    tile = _generates(sample, *measured[:2])
    assert tile.note.endswith("measured otherwise") == (gguf == ANSWERS)


def test_settings_in_which_arms_differ_are_shown_arm_by_arm(sample: kdtool.Results) -> None:
    whole = {**PASSES, "numbers": "float32"}
    measured = (_speed("teacher", 20.0, whole), _speed("student", 50.0, whole), _speed("student-gguf", 100.0, ANSWERS))
    (row,) = costs(dataclasses.replace(sample, measurements=measured), Subjects(sample.subjects)).rows
    assert row.settings == (
        ("Timed", "passes (Teacher, Student), answers (Exported: gguf)"),
        ("Prompt", "128 tokens"),
        ("Numbers", "float32 (Teacher, Student)"),
    )


def test_energy_and_break_even_are_costs_and_no_scores(sample: kdtool.Results) -> None:
    energy = kdtool.Measurement("energy-per-token", "student", "J/token", 1.25, 5, False)
    tokens = kdtool.Measurement("break-even", "student", "tokens", 5_000_000, 1, False)
    rows = costs(dataclasses.replace(sample, measurements=(energy, tokens)), Subjects(sample.subjects)).rows
    shown = {row.heading: (row.unit, row.cells[0].value) for row in rows if row.cells[0]}
    assert shown == {"Energy per token": ("J/token", "1.25"), "Break even": ("tokens", f"5.00{SPACE}M")}
