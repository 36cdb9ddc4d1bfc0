"""Hidden states: the suite of losses, plain loops, a case by hand, and which layers are paired."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_hidden import HiddenStates, state_distance
from kdtool_testing import SequenceLossConformance

SMALL = kdtool.ModelFacts(1000, 1000, 10, 8, 2, 2, 16, 50, 64, "float32", True, "t")
LARGE = replace(SMALL, layers=30)
COPIED = (0, 1, 8, 18, 19, 20, 23, 24, 28, 29)


class TestWithProjectors(SequenceLossConformance):
    component = HiddenStates
    entry_point = "hidden"


class TestWithoutProjectors(SequenceLossConformance):
    component = HiddenStates
    entry_point = "hidden"
    settings: ClassVar = {"layers": [0, 2]}
    teacher = replace(SequenceLossConformance.teacher, hidden=SequenceLossConformance.student.hidden)


def loss(**settings: Any) -> HiddenStates:
    return HiddenStates(HiddenStates.Config(**settings))


states = st.lists(st.floats(-5, 5), min_size=4, max_size=4)


@given(states, states)
def test_distance_is_what_plain_loops_say(student: list[float], teacher: list[float]) -> None:
    def normal(x: list[float]) -> list[float]:
        return [value / math.sqrt(sum(v * v for v in x) / len(x) + 1e-6) for value in x]

    expected = sum((a - b) ** 2 for a, b in zip(normal(student), normal(teacher), strict=True)) / 4
    value = state_distance(*(torch.tensor([x], dtype=torch.float64) for x in (student, teacher)))
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_case_by_hand() -> None:
    """(3, 4)·c has RMS 5c/√2; against (4, 3)·d: ½·((√2/5)² + (√2/5)²) = 2/25, whatever c and d."""
    value = state_distance(torch.tensor([[3e3, 4e3], [1.0, 0.0]]), torch.tensor([[4e2, 3e2], [-1.0, 0.0]]))
    assert value.tolist() == pytest.approx([0.08, 4.0], rel=1e-5)


@given(states)
def test_equal_states_have_no_distance_and_no_gradient(values: list[float]) -> None:
    student = torch.tensor([values]).requires_grad_()
    distance = state_distance(student, torch.tensor([values]))
    distance.sum().backward()  # type: ignore[no-untyped-call]
    assert distance.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_half_precision_states_do_not_overflow() -> None:
    state = torch.full((1, 64), 60000.0, dtype=torch.float16)
    assert state_distance(state, state).item() == 0
    assert state_distance(state, -state).item() == pytest.approx(4)


def test_auto_takes_every_second_layer_and_leaves_the_last() -> None:
    assert [mine for mine, _ in loss().kdtool_layers(SMALL, LARGE)] == [1, 3, 5, 7, 8]
    for layers, expected in {1: [0], 2: [0], 3: [1], 4: [1, 2], 5: [1, 3]}.items():
        assert [mine for mine, _ in loss().kdtool_layers(replace(SMALL, layers=layers), LARGE)] == expected


def test_layers_follow_what_the_student_was_copied_from() -> None:
    pairs = loss(layers=(2, 9)).kdtool_layers(replace(SMALL, copied_layers=COPIED), LARGE)
    assert pairs == ((2, 8), (9, 29))
    wider = replace(LARGE, hidden=16)  # a student that was cut in width, too
    assert loss(layers=(2,)).kdtool_layers(replace(SMALL, copied_layers=COPIED), wider) == ((2, 8),)


def test_layers_are_spread_where_nothing_was_copied_from_this_teacher() -> None:
    assert loss(layers=(0, 1, 9)).kdtool_layers(SMALL, LARGE) == ((0, 0), (1, 3), (9, 27))
    for other in (replace(LARGE, hidden=4), replace(LARGE, tokenizer_fingerprint="other")):
        assert loss(layers=(2,)).kdtool_layers(replace(SMALL, copied_layers=COPIED), other) == ((2, 6),)
    assert loss(layers=(9,)).kdtool_layers(SMALL, replace(SMALL, layers=2)) == ((9, 1),)


def test_the_value_is_the_mean_over_pairs() -> None:
    component = loss(layers=(0, 1))
    one = torch.ones(3, 8)
    outputs = kdtool.ModelOutputs(one, {0: one, 1: one})
    signal, pairs = kdtool.Signal("t", hidden={0: one, 1: -one}), ((0, 0), (1, 1))
    view = kdtool.StepView(None, outputs, signal, torch.tensor(0.0), torch.tensor(0), layers=pairs)  # type: ignore[arg-type]
    assert component.kdtool_sequence_loss(view).values.tolist() == pytest.approx([2.0] * 3, rel=1e-5)


def test_projectors_have_no_bias_and_are_those_that_train() -> None:
    component = loss(layers=(0,))
    module = component.kdtool_modules(SMALL, replace(LARGE, hidden=12))
    assert module is not None
    assert [tuple(parameter.shape) for parameter in module.parameters()] == [(12, 8)]
    with torch.no_grad():
        next(module.parameters()).zero_()
    outputs = kdtool.ModelOutputs(torch.ones(1, 8), {0: torch.ones(1, 8, dtype=torch.bfloat16)})
    signal, zero = kdtool.Signal("t", hidden={0: torch.ones(1, 12)}), torch.tensor(0)
    view = kdtool.StepView(None, outputs, signal, zero, zero, layers=((0, 0),), module=module)  # type: ignore[arg-type]
    assert component.kdtool_sequence_loss(view).values.item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("layers", [(10,), (1, 1), ()])
def test_layers_that_cannot_be_compared_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(kdtool.UsageError, match=r"hidden\.layers.*0 to 9"):
        loss(layers=layers).kdtool_layers(SMALL, LARGE)


def test_a_step_before_layers_are_paired_is_refused() -> None:
    view = kdtool.StepView(None, None, kdtool.Signal("t"), torch.tensor(0.0), torch.tensor(0))  # type: ignore[arg-type]
    with pytest.raises(kdtool.PluginError, match="`layers`"):
        loss().kdtool_sequence_loss(view)
