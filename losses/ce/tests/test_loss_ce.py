"""Cross-entropy against plain loops in float64, and the suite of losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_ce import CrossEntropy, cross_entropy
from kdtool_testing import TokenLossConformance


class TestCrossEntropy(TokenLossConformance):
    component = CrossEntropy
    entry_point = "ce"


numbers = st.floats(-20, 20)


@given(st.lists(numbers, min_size=2, max_size=8), st.integers(0, 7))
def test_it_is_what_plain_loops_say(logits: list[float], label: int) -> None:
    label %= len(logits)
    value = cross_entropy(torch.tensor([logits], dtype=torch.float64), torch.tensor([label]))
    expected = -math.log(math.exp(logits[label]) / sum(map(math.exp, logits)))
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
