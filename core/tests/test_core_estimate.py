"""Estimates: what components answer is added up by stage, compared with limits, and made to fit. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._estimate.ahead import Asked
from kdtool._estimate.forecast import add_up, cache_bytes
from kdtool._estimate.machine import memory_here, read_size, size
from kdtool._estimate.remedies import Remedy, fitting, largest

STAGES = ("students", "signals", "phases/train", "scores")
SMALLCODER = kdtool.ModelFacts(
    303_654_528, 303_654_528, 18, 1152, 16, 4, 3328, 32_000, 4096, "float32", tied=True, tokenizer_fingerprint=""
)
AHEAD = kdtool.Prospect({"student": SMALLCODER}, "student", STAGES, teachers=("teacher",))


def forecast(*parts: Asked) -> Any:
    return add_up(AHEAD, parts, ())


def part(count: int, *stages: str, component: str = "student", **fields: Any) -> Asked:
    return Asked(component, kdtool.Estimate("part", stages, host_bytes=count, **fields))


@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.lists(st.sampled_from(STAGES), min_size=1, unique=True)), max_size=8)
)
def test_parts_of_a_stage_add_up_and_stages_do_not(found: list[tuple[int, list[str]]]) -> None:
    parts = [part(count, *stages) for count, stages in found]
    totals = [sum(count for count, stages in found if stage in stages) for stage in STAGES]
    memory = forecast(*parts).memory
    assert memory.peak == max(totals)
    assert sum(memory.parts.values()) == memory.peak
    assert not memory.peak or totals[STAGES.index(memory.at)] == memory.peak


def test_moments_of_a_stage_do_not_add_up_but_share_what_is_held_in_all_of_it() -> None:
    weights, head, backward = part(10, "phases/train"), part(5, "phases/train: head"), part(7, "phases/train: backward")
    memory = forecast(weights, head, backward).memory
    assert (memory.peak, memory.at) == (17, "phases/train: backward")


def test_a_teacher_is_held_from_its_first_use_on() -> None:
    teacher = part(100, component="teacher")
    assert forecast(replace(teacher)).memory.moments["phases/train"] == {}
    assert forecast(teacher).memory.moments["scores"] == {"part": 100}, "evaluators open every teacher"
    moments = forecast(teacher, part(1, "signals", component="signals", uses=("teacher",))).memory.moments
    assert [sum(moments[stage].values()) for stage in STAGES] == [0, 101, 100, 100]


def test_what_is_spent_is_spent_for_each_seed() -> None:
    training = Asked("trainer", kdtool.Estimate("training", seconds=5.0, tokens=7, disk_bytes=3), "student", "train", 3)
    found = forecast(training)
    assert (found.seconds, found.tokens, [spent.bytes for spent in found.disk]) == (15.0, 21, [9])


def test_a_control_of_equal_time_takes_the_time_of_the_student() -> None:
    student = Asked("trainer", kdtool.Estimate("training", seconds=5.0), "student", "train")
    control = Asked("trainer", kdtool.Estimate("training", seconds=1.0), "control-time", "train")
    assert forecast(student, control).seconds == 10.0


def test_keys_and_values_of_smallcoder_take_what_its_shape_says() -> None:
    assert cache_bytes(SMALLCODER) == 2 * 18 * 4 * 72 * 4096 * 2 == 84_934_656
    assert cache_bytes(replace(SMALLCODER, head_size=64), 1, 1) == 2 * 18 * 4 * 64


@pytest.mark.parametrize(("text", "count"), [("8GB", 8 * 10**9), ("1.5 gb", 1_500_000_000), ("512MiB", 512 * 2**20)])
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert read_size(text) == count


@pytest.mark.parametrize("text", ["8", "GB", "-8GB", "8 gigs", "0GB", "1e9B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(kdtool.UsageError, match="write for instance 8GB"):
        read_size(text)


@given(st.integers(1, 10**15))
def test_sizes_that_are_written_can_be_read(count: int) -> None:
    assert read_size(size(count).replace(",", "")) == pytest.approx(count, rel=0.05, abs=1)


def test_this_machine_has_memory() -> None:
    assert memory_here() > 100_000_000


def machine(prices: Mapping[str, int], peak: int = 100) -> Any:
    """Return what checks a recipe: each setting takes so much off its peak."""

    def attempt(settings: Mapping[str, Any]) -> tuple[int, int]:
        if "broken" in settings:
            raise kdtool.UsageError("two adapters in one phase")
        return peak - sum(prices[key] for key in settings), 1000 - sum(prices[key] for key in settings)

    return attempt


def remedy(name: str, *, changes: bool = False, student: bool = False) -> Remedy:
    return Remedy({name: 1}, f"cost of {name}", changes, student)


def test_remedies_that_fit_alone_are_all_named_with_their_numbers() -> None:
    found = fitting([remedy("a"), remedy("b"), remedy("broken"), remedy("c")], 80, machine({"a": 30, "b": 5, "c": 20}))
    assert [(one.settings, one.peak) for one in found] == [({"a": 1}, 70), ({"c": 1}, 80)]


def test_where_none_fits_alone_the_fewest_changes_together_do_those_of_the_result_last() -> None:
    found = fitting([remedy("a", changes=True), remedy("b"), remedy("c")], 60, machine({"a": 20, "b": 15, "c": 10}))
    assert [(set(one.settings), one.peak, one.changes_result) for one in found] == [({"a", "b", "c"}, 55, True)]


def test_nothing_fits_where_nothing_does() -> None:
    assert fitting([remedy("a"), remedy("b")], 10, machine({"a": 20, "b": 15})) == []
    assert largest([remedy("a", student=True)], 10, machine({"a": 20})) is None


def test_the_largest_student_that_fits_is_proposed_with_other_settings_before_a_smaller_one() -> None:
    choices = [remedy("smaller", changes=True, student=True), remedy("batch")]
    found = largest(choices, 80, machine({"smaller": 30, "batch": 25}))
    assert found is not None
    assert dict(found.settings) == {"batch": 1}
    found = largest(choices, 71, machine({"smaller": 30, "batch": 25}))
    assert found is not None
    assert dict(found.settings) == {"smaller": 1}
    found = largest(choices, 100, machine({"smaller": 30, "batch": 25}))
    assert found is not None
    assert dict(found.settings) == {}
