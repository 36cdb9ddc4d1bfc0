"""Consistency of two passes: plain loops in float64, half precision, and the suite of losses."""

from __future__ import annotations

import math
from typing import ClassVar

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_consistency import Consistency, consistency
from kdtool_testing import TokenLossConformance
from torch import Tensor

logits = st.lists(st.floats(-8, 8), min_size=5, max_size=5)
temperatures = st.floats(0.3, 5)


class TestConsistency(TokenLossConformance):
    component = Consistency
    entry_point = "consistency"
    settings: ClassVar = {"temperature": 3.0}


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def probabilities(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def plain_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@given(logits, logits, temperatures)
def test_it_is_what_plain_loops_say(first: list[float], second: list[float], t: float) -> None:
    p, q = probabilities(first, t), probabilities(second, t)
    expected = (plain_kl(p, q) + plain_kl(q, p)) / 2
    assert consistency(row(first), row(second), t).item() == pytest.approx(expected, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = ((5 * torch.randn(6, 4000, generator=generator)).to(dtype) for _ in range(2))
    exact = consistency(first.double(), second.double())
    torch.testing.assert_close(consistency(first, second).double(), exact, rtol=1e-5, atol=1e-6)


def test_one_pass_is_refused() -> None:
    here = torch.zeros(1, dtype=torch.int64)
    chunk = kdtool.TokenChunk(row([1.0, 2.0]), here, None, here, 1.0, torch.tensor(0.0), torch.tensor(0))
    with pytest.raises(kdtool.PluginError, match="but got one"):
        Consistency(Consistency.Config()).kdtool_token_loss(chunk)
