"""Hidden states: the suite of losses, plain loops, projectors, and layers that are refused."""

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


def test_half_precision_states_do_not_overflow() -> None:
    state = torch.full((1, 64), 60000.0, dtype=torch.float16)
    assert state_distance(state, state).item() == 0
    assert state_distance(state, -state).item() == pytest.approx(4)


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


def test_layers_that_are_not_there_and_steps_without_layers_are_refused() -> None:
    with pytest.raises(kdtool.UsageError, match=r"hidden\.layers.*0 to 9"):
        loss(layers=(10,)).kdtool_layers(SMALL, LARGE)
    view = kdtool.StepView(None, None, kdtool.Signal("t"), torch.tensor(0.0), torch.tensor(0))  # type: ignore[arg-type]
    with pytest.raises(kdtool.PluginError, match="`layers`"):
        loss().kdtool_sequence_loss(view)
