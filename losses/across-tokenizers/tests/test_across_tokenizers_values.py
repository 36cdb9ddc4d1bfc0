"""The plain functions where values are equal, certain, impossible or excluded; whole steps are in the references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_across_tokenizers import Classes, projected_kl, sorted_distance, span_divergence
from torch import Tensor

logits = st.lists(st.floats(-8, 8), min_size=1, max_size=7)
temperatures = st.floats(0.3, 5)
costs = st.lists(st.floats(0, 60), min_size=1, max_size=3)
powers = st.floats(0.5, 300)


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@given(logits.flatmap(lambda values: st.tuples(st.just(values), st.permutations(values))), temperatures)
def test_order_of_tokens_and_impossible_ones_play_no_part(lists: tuple[list[float], list[float]], t: float) -> None:
    """This is what makes it work across vocabularies, and what it cannot see."""
    one, other = row(lists[0]).requires_grad_(), torch.cat([row(lists[1]), row([-math.inf] * 3)], -1)
    distance = sorted_distance(one, other, t)
    assert distance.item() == pytest.approx(0, abs=1e-12)
    same = sorted_distance(one, one.detach(), t)
    same.sum().backward()  # type: ignore[no-untyped-call]
    assert same.item() == 0
    assert one.grad is not None
    assert not one.grad.any()


@given(costs, powers)
def test_equal_likelihoods_have_no_divergence_and_no_gradient(values: list[float], tau: float) -> None:
    for dtype in (torch.float32, torch.float64):
        teacher = -torch.tensor(values, dtype=dtype)
        student = teacher.clone().requires_grad_()
        found = span_divergence(student, teacher, tau)
        found.sum().backward()  # type: ignore[no-untyped-call]
        assert not found.any()
        assert student.grad is not None
        assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize("tau", [1.0, 100.0])
def test_certain_and_impossible_spans_stay_finite(tau: float) -> None:
    worst = [0.0, -1e-9, -1.0, -200.0, -1e5]
    student = torch.tensor(worst * 6).requires_grad_()
    teacher = torch.tensor([value for value in [*worst, -math.inf] for _ in worst])
    found = span_divergence(student, teacher, tau)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_class_that_the_student_excludes_still_has_a_gradient() -> None:
    """In float32, where its probability, e^-200, is 0."""
    classes = Classes(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    student = torch.tensor([[0.0, -200.0]]).requires_grad_()
    found = projected_kl(student, torch.zeros(1, 2), classes)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(100 - math.log(2))
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([0.5, -0.5])
