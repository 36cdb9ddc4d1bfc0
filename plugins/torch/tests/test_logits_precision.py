"""Log-probabilities are those of plain loops, in a precision that is enough, and finite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_torch import LOWEST, at_least_float32, log_probabilities

numbers = st.lists(st.floats(-8, 8), min_size=1, max_size=7)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_becomes_float32_and_all_else_stays(dtype: torch.dtype, expected: torch.dtype) -> None:
    values = torch.ones(3, dtype=dtype)
    assert at_least_float32(values).dtype == log_probabilities(values).dtype == expected
    assert (at_least_float32(values) is values) == (dtype == expected)


@given(numbers, st.floats(0.25, 8))
def test_log_probabilities_are_what_plain_loops_say(values: list[float], temperature: float) -> None:
    found = log_probabilities(torch.tensor([values], dtype=torch.float64), temperature)[0].tolist()
    total = math.log(sum(math.exp(value / temperature) for value in values))
    assert found == pytest.approx([value / temperature - total for value in values], rel=1e-9, abs=1e-9)


def test_an_excluded_token_has_a_finite_log_probability_and_counts_nothing() -> None:
    logs = log_probabilities(torch.tensor([[0.0, -math.inf]]))
    assert logs.tolist() == [[0.0, pytest.approx(LOWEST)]]
    assert (logs.exp() * logs).sum().item() == 0.0
