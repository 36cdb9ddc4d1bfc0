"""Cross-entropy against plain loops in float64, one case by hand, and the suite of losses."""

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


class TestSmoothedCrossEntropy(TokenLossConformance):
    component = CrossEntropy
    entry_point = "ce"
    settings: ClassVar = {"label_smoothing": 0.1, "z_loss": 1e-4}


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


def test_a_case_by_hand() -> None:
    """q = (1/2, 1/4, 1/4) and Σ exp z = 4: nll = log 2, mean of −log q = (5/3)·log 2, log-normaliser = 2·log 2."""
    logits, label = torch.tensor([[2.0, 1.0, 1.0]]).log(), torch.tensor([0])
    assert cross_entropy(logits, label).item() == pytest.approx(math.log(2))
    assert cross_entropy(logits, label, label_smoothing=0.3).item() == pytest.approx(1.2 * math.log(2))
    assert cross_entropy(logits, label, z_loss=0.5).item() == pytest.approx(math.log(2) + 2 * math.log(2) ** 2)


@given(st.lists(numbers, min_size=3, max_size=3), numbers)
def test_a_shift_of_all_logits_changes_nothing(logits: list[float], shift: float) -> None:
    z, label = torch.tensor([logits], dtype=torch.float64), torch.tensor([1])
    assert cross_entropy(z + shift, label).item() == pytest.approx(cross_entropy(z, label).item(), abs=1e-9)
