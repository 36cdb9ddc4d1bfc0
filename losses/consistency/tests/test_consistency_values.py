"""Consistency of two passes: plain loops in float64, a case by hand, what theory says of it, and the suite of losses."""

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


class TestSoftConsistency(TokenLossConformance):
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


def test_a_case_by_hand() -> None:
    """p = (½, ½), q = (¼, ¾): KL(p‖q) = log 2 − ½·log 3, KL(q‖p) = ¾·log 3 − log 2, so half their sum is ⅛·log 3."""
    first, second = row([1.0, 1.0]).log(), row([1.0, 3.0]).log()
    assert consistency(first, second).item() == pytest.approx(math.log(3) / 8)
    # At T = ½ the odds 1 : 3 become 1 : 9, so q = (1/10, 9/10): ½·(0.4·log 5 + 0.4·log 9/5) = ½·0.4·log 9.
    assert consistency(first, second, 0.5).item() == pytest.approx(0.4 * math.log(3))


@given(logits, logits, temperatures, st.floats(-50, 50))
def test_it_is_never_negative_symmetric_and_blind_to_shifts(
    first: list[float], second: list[float], t: float, shift: float
) -> None:
    value = consistency(row(first), row(second), t).item()
    assert value >= 0
    assert consistency(row(second), row(first), t).item() == pytest.approx(value, rel=1e-12, abs=1e-15)
    assert consistency(row(first) + shift, row(second) - shift, t).item() == pytest.approx(value, abs=1e-9)


@given(logits, temperatures)
def test_equal_passes_are_at_distance_zero_with_zero_gradients(first: list[float], t: float) -> None:
    p, q = row(first).requires_grad_(), row(first).requires_grad_()
    value = consistency(p, q, t)
    gradients = torch.autograd.grad(value.sum(), (p, q))
    assert value.item() == 0
    assert max(gradient.abs().max() for gradient in gradients) < 1e-12


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_gradients_of_both_passes_are_right(t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    passes = [torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda p, q: consistency(p, q, t), passes)


@given(logits, logits, temperatures)
def test_gradients_are_those_of_the_formula(first: list[float], second: list[float], t: float) -> None:
    """d/dz₁ of ½·Σ (p − q)·(log p − log q) is (p·(r − p·r) + p − q) / 2T, with r = log p − log q."""
    p, q = probabilities(first, t), probabilities(second, t)
    ratios = [math.log(a / b) for a, b in zip(p, q, strict=True)]
    mean = sum(a * r for a, r in zip(p, ratios, strict=True))
    expected = [(a * (r - mean) + a - b) / (2 * t) for a, b, r in zip(p, q, ratios, strict=True)]
    z = row(first).requires_grad_()
    (found,) = torch.autograd.grad(consistency(z, row(second), t).sum(), z)
    torch.testing.assert_close(found, row(expected), rtol=1e-7, atol=1e-9)


def test_a_weight_means_the_same_at_every_temperature() -> None:
    """T^softened times the gradient tends to one size, which logits so near each other have reached at T = 2."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(8, 200, generator=generator, dtype=torch.float64) / 4 for _ in range(2))
    sizes = []
    for t in (2.0, 4.0, 8.0, 16.0):
        z = first.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(consistency(z, second, t).sum(), z)
        sizes.append(t**Consistency.temperature_power * gradient.norm().item())
    assert sizes == pytest.approx([sizes[-1]] * 4, rel=0.1)


def test_times_t_squared_it_keeps_its_size_when_softened() -> None:
    """T²·D tends to half the variance of the difference of logits (Hinton et al., equation 4)."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(4, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = (first - second).var(-1, correction=0) / 2
    torch.testing.assert_close(consistency(first, second, 1e3) * 1e6, expected, rtol=1e-2, atol=1e-4)


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
