"""Quality against cost: who is on the front, whose cost stands for whom, and charts that would say nothing."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_report.html.charts import Chart, spread
from kdtool_report.html.page import page
from kdtool_report.html.tradeoffs import Point, front_of, per_parameter, tradeoffs
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


def _chart(quality: dict[str, float], sizes: dict[str, float], *, higher: bool = True) -> Chart:
    measured = [_measured("pass@1", subject, "fraction", value, higher) for subject, value in quality.items()]
    measured += [_measured("file-size", subject, "bytes", value, False) for subject, value in sizes.items()]
    (chart,) = tradeoffs(measured, _subjects(measured))
    return chart


def test_front_holds_what_nothing_beats_in_both() -> None:
    found = {"teacher": (100, 0.9), "student": (10, 0.6), "control": (10, 0.5), "student-big": (20, 0.6)}
    points = [Point(arm, cost, quality, None) for arm, (cost, quality) in found.items()]
    assert {point.arm for point in front_of(points, higher=True, higher_cost=False)} == {"teacher", "student"}
    assert {point.arm for point in front_of(points, higher=False, higher_cost=False)} == {"control"}
    assert {point.arm for point in front_of(points, higher=False, higher_cost=True)} == {
        "teacher",
        "control",
        "student-big",
    }


@pytest.mark.parametrize(("higher", "better"), [(True, "upper"), (False, "lower")])
def test_the_caption_names_the_better_corner(higher: bool, better: str) -> None:
    chart = _chart({"teacher": 5.0, "student": 9.0}, {"teacher": 100.0, "student": 10.0}, higher=higher)
    assert chart.caption == f"against file size; the {better} left is better"


def test_titles_of_points_that_lie_on_each_other_stand_apart() -> None:
    arms = ("teacher", "student", "control", *(f"student-{label}" for label in ("safetensors", "gguf", "q4", "big")))
    quality = {arm: 0.9 if arm == "teacher" else 0.5 for arm in arms}
    chart = _chart(quality, {arm: 100.0 if arm == "teacher" else 10.0 for arm in arms})
    texts = re.findall(r'font-size: 10px[^>]* y="([\d.]+)"[^>]*>([^<]+)<', chart.drawing)
    assert {text for _, text in texts} == {SUBJECTS.title(arm) for arm in arms}
    heights = sorted(float(y) for y, _ in texts)
    assert all(below - above > 10 for above, below in pairwise(heights))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_titles_stay_in_order_apart_and_below_the_top(points: list[float]) -> None:
    moved = spread(sorted(points), 0.1)
    assert max(moved) <= 1
    assert all(b - a > 0.0999 for a, b in pairwise(moved))
    apart = [0.1, 0.3, 0.9]
    assert spread(apart, 0.1) == apart


def test_exported_folder_stands_for_the_student_where_that_has_no_size() -> None:
    chart = _chart({"teacher": 0.9, "student": 0.6}, {"teacher": 100.0, "student-safetensors": 10.0, "student-q4": 3.0})
    assert "Student: 60.0\u00a0% at 10" in chart.drawing


def test_the_exported_folder_s_speed_stands_for_the_student_and_not_that_of_another_file() -> None:
    speeds = {"teacher": 20.0, "student-safetensors": 60.0, "student-gguf": 150.0}
    measured = [
        _measured("pass@1", arm, "fraction", value, True) for arm, value in {"teacher": 0.9, "student": 0.6}.items()
    ]
    measured += [_measured("decode-speed", arm, "tokens/s", value, True) for arm, value in speeds.items()]
    for name, unit in (("parameters", "parameters"), ("file-size", "bytes")):
        own = [_measured(name, "student-safetensors", unit, 10.0, False), _measured(name, "teacher", unit, 50.0, False)]
        speed = next(chart for chart in tradeoffs([*measured, *own], SUBJECTS) if "decode speed" in chart.caption)
        assert "Student: 60.0\u00a0% at 60.0" in speed.drawing


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


@pytest.mark.parametrize("sizes", [{}, {"teacher": 100.0}, {"teacher": 100.0, "student": 100.0}])
def test_one_size_for_all_says_nothing(sizes: dict[str, float]) -> None:
    measured = [_measured("pass@1", arm, "fraction", 0.5, True) for arm in ("teacher", "student")]
    assert not tradeoffs(
        [*measured, *(_measured("file-size", arm, "bytes", size, False) for arm, size in sizes.items())], SUBJECTS
    )


def test_page_draws_them_and_says_them_in_words(sample: kdtool.Results, sample_page: str) -> None:
    text = sample_page
    assert "Quality against size and speed" in text
    assert "Perplexity against file size. Teacher: 5.94 at 269" in text
    assert "Quality against size" not in page(dataclasses.replace(sample, measurements=()))


def test_page_of_models_that_were_only_measured_says_what_was_compared(sample: kdtool.Results) -> None:
    compared = kdtool.Comparison(
        "pass@1", "one", "two", 0.42, 0.6, -0.18, -0.25, -0.11, False, "worse", 3, 164, (0.7, 0.62, 0.79)
    )
    text = page(dataclasses.replace(sample, arms=(), comparisons=(compared,), verdict="Against two, one is worse."))
    assert '<p class="verdict">Against two, one is worse.</p>' in text
    assert "70.0\u00a0% (62.0 to 79.0\u00a0%)" in text


def test_an_export_has_a_colour_and_a_shape_of_its_own() -> None:
    chart = _chart({"student": 5.0, "student-q4": 5.0}, {"student": 100.0, "student-q4": 50.0})
    assert "var(--export)" in chart.drawing
    markers = re.findall(
        r'<path id="\w+" d="([^"]+)" style="stroke: var\(--(\w+)\)', re.sub(r"\s+", " ", chart.drawing)
    )
    shapes = {colour: "C" in shape for shape, colour in markers if colour in {"student", "export"}}
    assert shapes == {"student": True, "export": False}, "a circle has curves"
