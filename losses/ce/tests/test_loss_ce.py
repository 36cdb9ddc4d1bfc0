"""Cross-entropy against plain loops in float64, and the suite of losses."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_ce import CrossEntropy, cross_entropy
from kdtool_testing import TokenLossConformance


class TestCrossEntropy(TokenLossConformance):
    component = CrossEntropy
    entry_point = "ce"
    settings: ClassVar = {"label_smoothing": 0.1, "z_loss": 0.1}


def reference(logits: list[float], label: int, smoothing: float, z_loss: float) -> float:
    """Return the loss of one position from probabilities, not from logarithms of sums."""
    total = sum(math.exp(z) for z in logits)
    target = [smoothing / len(logits) + (1 - smoothing) * (v == label) for v in range(len(logits))]
    value = -sum(t * math.log(math.exp(z) / total) for t, z in zip(target, logits, strict=True))
    return value + z_loss * math.log(total) ** 2


numbers = st.floats(-20, 20)


@given(st.lists(numbers, min_size=2, max_size=8), st.integers(0, 7), st.floats(0, 0.9), st.floats(0, 1))
def test_it_is_what_plain_loops_say(logits: list[float], label: int, smoothing: float, z_loss: float) -> None:
    label %= len(logits)
    value = cross_entropy(torch.tensor([logits], dtype=torch.float64), torch.tensor([label]), smoothing, z_loss)
    assert value.item() == pytest.approx(reference(logits, label, smoothing, z_loss), rel=1e-9, abs=1e-9)
