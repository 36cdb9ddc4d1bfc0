"""The plain functions: loops in float64 that share no code, a case by hand, and what theory says of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_preference import margins, preference_loss
from torch import Tensor

values = st.floats(-60, 60)
betas = st.floats(0.01, 5)
shares = st.floats(0, 0.49)


def of(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def plain(margin: float, beta: float, share: float = 0.0) -> float:
    """Return −(1 − ε)·log σ(βm) − ε·log σ(−βm)."""
    believed = 1 / (1 + math.exp(-beta * margin)), 1 / (1 + math.exp(beta * margin))
    return -(1 - share) * math.log(believed[0]) - share * math.log(believed[1])


@given(values, betas, shares)
def test_it_is_what_a_plain_formula_says(margin: float, beta: float, share: float) -> None:
    found = preference_loss(of(margin), beta, share).item()
    assert found == pytest.approx(plain(margin, beta, share), rel=1e-9, abs=1e-12)
    assert found >= 0


def test_a_case_by_hand() -> None:
    """Chosen twice as likely as to the reference, rejected two thirds as likely: e^m = 3, at β = 1 log(1 + 1/3)."""
    student, reference = (of(0).new_tensor(row).log() for row in ([0.5, 0.8, 0.2], [0.5, 0.4, 0.3]))
    margin = margins(student, reference, torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.int64), 1)
    assert margin.item() == pytest.approx(math.log(3))
    assert preference_loss(margin, 1.0).item() == pytest.approx(math.log(4 / 3))
    assert preference_loss(margin, 2.0).item() == pytest.approx(math.log(10 / 9))
    assert preference_loss(margin, 1.0, 0.25).item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


@given(betas, shares)
def test_equals_have_log_2_and_a_gradient(beta: float, share: float) -> None:
    margin = of(0.0).requires_grad_()
    found = preference_loss(margin, beta, share)
    (gradient,) = torch.autograd.grad(found, margin)
    assert found.item() == pytest.approx(math.log(2))
    assert gradient.item() == pytest.approx(-(0.5 - share) * beta)


@given(values, betas, st.floats(0.1, 10))
def test_beta_scales_margins(margin: float, beta: float, factor: float) -> None:
    once = preference_loss(of(margin * factor), beta)
    torch.testing.assert_close(once, preference_loss(of(margin), beta * factor))


@given(values, betas)
def test_the_other_way_round_costs_the_scaled_margin_more(margin: float, beta: float) -> None:
    """Log σ(x) − log σ(−x) = x."""
    right, wrong = preference_loss(of(margin), beta).item(), preference_loss(of(-margin), beta).item()
    assert wrong - right == pytest.approx(beta * margin, rel=1e-9, abs=1e-9)


def test_with_doubt_the_least_is_where_the_student_doubts_as_much() -> None:
    margin = of(math.log(0.8 / 0.2) / 0.3).requires_grad_()
    (gradient,) = torch.autograd.grad(preference_loss(margin, 0.3, 0.2), margin)
    assert gradient.item() == pytest.approx(0, abs=1e-12)


def test_its_gradient_is_right_and_finite_anywhere() -> None:
    margin = torch.linspace(-9, 9, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: preference_loss(m, 0.7, 0.1), (margin,))
    for dtype in (torch.float32, torch.bfloat16):
        extreme = torch.tensor([-1e6, 0, 1e6], dtype=dtype).requires_grad_()
        found = preference_loss(extreme, 1.0)
        (gradient,) = torch.autograd.grad(found.sum(), extreme)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert gradient.tolist() == pytest.approx([-1, -0.5, 0])
