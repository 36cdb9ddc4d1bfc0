"""Estimates: what components answer is added up by stage, compared with limits, and made to fit. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._contract.run_info import Gpu, Owner
from kdtool._estimate.check import Attempt, Remedy, propose, resolve
from kdtool._estimate.forecast import AttributedEstimate, estimate_process, estimate_without_hook
from kdtool._estimate.machine import read_size
from kdtool._estimate.totals import add_up

TRAINING, SCORES = "phases/student-seed0-train", "scores/efficiency"
STAGES = ("students", "signals/teacher", TRAINING, SCORES)
SMALLCODER = kdtool.ModelFacts(
    303_654_528, 303_654_528, 18, 1152, 16, 4, 3328, 32_000, 4096, "float32", tied=True, tokenizer_fingerprint=""
)
AHEAD = kdtool.RunForecast({"student": SMALLCODER}, "student", STAGES, teachers=("teacher",))


def forecast(*parts: AttributedEstimate) -> Any:
    return add_up(AHEAD, parts, (), {SCORES: ["teacher"]})


def part(count: int, *stages: str, component: str = "student", **fields: Any) -> AttributedEstimate:
    return AttributedEstimate(component, kdtool.Estimate("part", stages, host_bytes=count, **fields))


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
    weights, head, backward = part(10, TRAINING), part(5, f"{TRAINING}: head"), part(7, f"{TRAINING}: backward")
    memory = forecast(weights, head, backward).memory
    assert (memory.peak, memory.at) == (17, f"{TRAINING}: backward")


def test_a_teacher_is_held_from_its_first_use_on() -> None:
    teacher = part(100, component="teacher")
    moments = add_up(AHEAD, [teacher], (), {"signals/teacher": ["teacher"]}).memory.moments
    assert [sum(moments[stage].values()) for stage in STAGES] == [0, 100, 100, 100]


def test_what_is_spent_is_spent_for_each_seed() -> None:
    training = AttributedEstimate(
        "trainer", kdtool.Estimate("training", seconds=5.0, tokens=7, disk_bytes=3), "student", "train", 3
    )
    found = forecast(training)
    assert (found.seconds, found.tokens, [spent.bytes for spent in found.disk]) == (15.0, 21, [9])


def test_a_control_of_equal_time_takes_the_time_of_the_student() -> None:
    student = AttributedEstimate("trainer", kdtool.Estimate("training", seconds=5.0), "student", "train")
    control = AttributedEstimate("trainer", kdtool.Estimate("training", seconds=1.0), "control-time", "train")
    assert forecast(student, control).seconds == 10.0


def test_keys_and_values_of_smallcoder_take_what_its_shape_says() -> None:
    assert SMALLCODER.cache_bytes(2) == 2 * 18 * 4 * 72 * 4096 * 2 == 84_934_656
    assert replace(SMALLCODER, head_size=64).cache_bytes(1, 1) == 2 * 18 * 4 * 64
    assert replace(SMALLCODER, heads=0, kv_heads=0).cache_bytes(2) == 0


def test_sizes_are_read_as_people_write_them() -> None:
    assert [read_size(text) for text in ("8GB", "1.5 gb", "512MiB")] == [8 * 10**9, 1_500_000_000, 512 * 2**20]
    for text in ("8", "GB", "-8GB", "8 gigs", "0GB", "1e9B"):
        with pytest.raises(kdtool.UsageError, match="write for instance 8GB"):
            read_size(text)


def remedy(name: str, *, changes: bool = False, student: bool = False) -> Remedy:
    return Remedy({name: 1}, f"cost of {name}", changes, student)


REFUSED: tuple[set[str], ...] = ({"broken"}, {"lora", "qlora"})
A, B, C, BATCH = remedy("a", changes=True), remedy("b"), remedy("c"), remedy("batch")
LARGER, SMALLER = remedy("larger", student=True), remedy("smaller", changes=True, student=True)
ADAPTERS = [remedy("lora", changes=True), remedy("qlora", changes=True)]
PRICES = {"a": 20, "b": 15, "c": 10, "batch": 25, "larger": -10, "smaller": 30, "lora": 20, "qlora": 30}
"""How much each setting takes off a peak of 100."""


@pytest.mark.parametrize(
    ("choices", "limit", "larger", "expected"),
    [
        pytest.param([A, remedy("broken"), B, C], 60, False, {"a", "b", "c"}, id="one cannot be built"),
        pytest.param([A, B], 85, False, {"b"}, id="as few as possible, changes of the result last"),
        pytest.param([A, B], 10, False, None, id="nothing fits"),
        pytest.param([LARGER, BATCH], 90, True, {"larger", "batch"}, id="a larger student on demand"),
        pytest.param([SMALLER, BATCH], 80, True, {"batch"}, id="other settings before a smaller student"),
        pytest.param([SMALLER, BATCH], 71, True, {"smaller"}, id="a smaller student"),
        pytest.param([*ADAPTERS, BATCH], 60, False, {"batch", "lora"}, id="two that exclude each other"),
    ],
)
def test_the_fewest_changes_that_fit_are_proposed(
    choices: list[Remedy], limit: int, larger: bool, expected: set[str] | None
) -> None:
    def attempt(settings: Mapping[str, Any]) -> Attempt:
        if any(refused <= set(settings) for refused in REFUSED):
            raise kdtool.UsageError("two adapters in one phase")
        left = 100 - sum(PRICES[key] for key in settings)
        return Attempt(left, 900 + left, {f"{TRAINING}: head": left - limit} if left > limit else {})

    found = propose(choices, attempt, larger=larger)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (set(found.settings), found.peak) == (expected, 100 - sum(PRICES[key] for key in expected))
        assert found.changes_result == bool(expected & {"a", "smaller", "lora"})


def test_a_model_that_is_unloaded_for_a_stage_is_not_counted_in_it() -> None:
    teacher = part(100, component="teacher")
    measured = part(30, SCORES, component="evaluators.efficiency", unloads=("teacher",))
    other = part(10, TRAINING, component="trainer")
    moments = add_up(AHEAD, [teacher, measured, other], (), {"students": ["teacher"]}).memory.moments
    assert (sum(moments[TRAINING].values()), sum(moments[SCORES].values())) == (110, 30)


def test_what_computes_is_counted_where_the_run_computes() -> None:
    measured = AttributedEstimate("perplexity", kdtool.Estimate("measured", (SCORES,), compute_bytes=7))
    training = AttributedEstimate("trainer", kdtool.Estimate("weights", (TRAINING,), device_bytes=5))
    assert forecast(measured).memory.peak == 7
    assert forecast(measured, training).device_memory.moments[SCORES] == {"measured": 7}


def test_a_model_that_two_components_take_is_downloaded_once() -> None:
    both = [
        AttributedEstimate(name, kdtool.Estimate("weights of m", disk_bytes=5, download_bytes=5)) for name in ("a", "b")
    ]
    assert ([spent.bytes for spent in forecast(*both).downloads], forecast(*both).disk_bytes) == ([5], 5)


@pytest.mark.parametrize(
    ("kind", "name", "described", "expected"),
    [
        ("student", "student", True, ["student before training"] * 2),
        ("student", "student", False, ["memory of student: its plugin does not implement kdtool_describe"]),
        ("teacher", "teacher", True, ["teacher"]),
        ("teacher", "teacher", False, ["memory of teacher: its plugin does not implement kdtool_describe"]),
        ("trainer", "trainer", True, ["memory and time of training of trainer: its plugin does not implement"]),
        ("evaluator", "evaluators.parses", True, ["measured student"]),
        ("exporter", "exporters.zip", True, ["exported student"]),
        ("loss", "train.losses.own", True, []),
    ],
)
def test_a_component_without_an_estimate_is_estimated_by_shape_or_named_as_unknown(
    kind: str, name: str, described: bool, expected: list[str]
) -> None:
    models = {"student": SMALLCODER, "teacher": SMALLCODER} if described else {}
    ahead = kdtool.RunForecast(models, "student", STAGES, teachers=("teacher",))
    component = kdtool.Teacher(None)
    found = [
        AttributedEstimate(name, one)
        for one in estimate_without_hook(Owner(name, kind, "own", "", ""), component, ahead)
    ]
    unknown = add_up(ahead, found, (), {}).unknown
    assert len(unknown or found) == len(expected)
    for line, start in zip(unknown or [one.estimate.part for one in found], expected, strict=True):
        assert line.startswith(start)
    if expected == ["measured student"]:
        assert found[0].estimate.stages == ("scores",)
        assert found[0].estimate.compute_bytes == 4 * SMALLCODER.parameters
    component.answer_cache_key = {"model": "remote"}
    if kind == "teacher" and not described:
        assert not [*estimate_without_hook(Owner(name, kind, "own", "", ""), component, ahead)], "a service"


def test_a_process_is_part_of_every_stage() -> None:
    moments = forecast(AttributedEstimate("process", estimate_process(AHEAD))).memory.moments
    assert {stage: sum(parts.values()) for stage, parts in moments.items()} == dict.fromkeys(STAGES, 580_000_000)


def test_a_gpu_is_known_by_its_name() -> None:
    assert Gpu.find("A100-80GB").half == 312e12
    assert (Gpu.find("M1 Max 32GB").unified, Gpu.find("mx450-2gb").memory) == (True, 2 * 10**9)
    with pytest.raises(kdtool.UsageError, match="'a1000' is unknown; give one of t4, "):
        Gpu.find("a1000")


@pytest.mark.parametrize(
    ("hidden", "settings"),
    [({}, {"a": 1}), ({"b": {"b": 2}}, {"a": 1, "b": 2}), ({"a": {"a": 3}}, {"a": 3}), ({"b": {}}, {})],
)
def test_a_refusal_names_all_settings_that_resolve_it(hidden: Any, settings: dict[str, int]) -> None:
    def refusal(problems: Any) -> kdtool.RecipeError:
        return kdtool.RecipeError([kdtool.Problem(k, f"not {s}", settings=s) for k, s in problems.items()])

    def attempt(tried: Any) -> None:
        if tried != settings:
            raise refusal(hidden)

    found = resolve(refusal({"a": {"a": 1}}), attempt)
    assert (found.settings, [problem.key for problem in found.problems]) == (settings, ["a", *hidden])
