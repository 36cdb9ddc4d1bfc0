"""The plain functions: loops in float64 that share no code, gradients, and values at the ends."""

from __future__ import annotations

import math

import pytest
import torch
from cut_texts import plain_divergence
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_across_tokenizers import (
    Classes,
    projected_kl,
    sorted_distance,
    span_divergence,
)
from torch import Tensor

logits = st.lists(st.floats(-8, 8), min_size=1, max_size=7)
temperatures = st.floats(0.3, 5)
costs = st.lists(st.floats(0, 60), min_size=1, max_size=3)
powers = st.floats(0.5, 300)


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def softmax(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def plain_distance(student: list[float], teacher: list[float], temperature: float) -> float:
    q, p = (sorted(softmax(side, temperature), reverse=True) for side in (student, teacher))
    length = max(len(q), len(p))
    pairs = zip(q + [0.0] * (length - len(q)), p + [0.0] * (length - len(p)), strict=True)
    return sum(abs(a - b) for a, b in pairs)


@given(logits, logits, temperatures)
def test_sorted_distances_are_what_plain_loops_say(student: list[float], teacher: list[float], t: float) -> None:
    found = sorted_distance(row(student), row(teacher), t).item()
    assert found == pytest.approx(plain_distance(student, teacher, t), rel=1e-9, abs=1e-12)
    assert 0 <= found <= 2


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


def test_the_gradient_of_a_sorted_distance_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    for tokens in (4, 6, 9):
        teacher = torch.randn(4, tokens, generator=generator, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda z, p=teacher: sorted_distance(z, p, 1.5), (student,))


@given(costs, costs, powers)
def test_divergences_are_what_plain_loops_say(student: list[float], teacher: list[float], tau: float) -> None:
    q, p = -sum(student), -sum(teacher)
    found = span_divergence(row([q])[0], row([p])[0], tau).item()
    assert found == pytest.approx(plain_divergence(q, p, tau), rel=1e-6, abs=1e-9)
    assert found >= -1e-9


@given(st.floats(0.01, 60), st.floats(0.01, 60), powers)
def test_the_derivative_is_the_one_documented(b: float, a: float, tau: float) -> None:
    student = row([-b])[0].requires_grad_()
    span_divergence(student, row([-a])[0], tau).backward()  # type: ignore[no-untyped-call]
    p, q = math.exp(-(a + 1e-6) / tau), math.exp(-(b + 1e-6) / tau)
    assert student.grad is not None
    assert student.grad.item() == pytest.approx(-(p - q) / -math.expm1(-(b + 1e-6) / tau), rel=1e-6, abs=1e-9)


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


sizes = st.integers(1, 9)


@given(sizes, sizes, st.integers(1, 4), temperatures, st.integers(0, 99))
def test_projected_divergences_are_what_plain_loops_say(own: int, other: int, count: int, t: float, seed: int) -> None:
    """Each class has a token on both sides; all others are in any class or in none."""
    generator = torch.Generator().manual_seed(seed)
    z, y = (3 * torch.randn(1, count + n, generator=generator, dtype=torch.float64) for n in (own, other))
    of = [torch.cat([torch.arange(count), torch.randint(count + 1, (n,), generator=generator)]) for n in (own, other)]
    q, p = [0.0] * (count + 1), [0.0] * (count + 1)
    for sums, side, classes in ((q, z, of[0]), (p, y, of[1])):
        for share, number in zip(softmax(side[0].tolist(), t), classes.tolist(), strict=True):
            sums[number] += share
    mass, own_mass = sum(p[:-1]), sum(q[:-1])
    expected = sum(p[c] * math.log(p[c] / mass / q[c] * own_mass) for c in range(count))
    found = projected_kl(z, y, Classes(of[0], of[1], count), t)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = projected_kl(z.float(), y.float(), Classes(of[0], of[1], count), t)
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_class_that_the_student_excludes_still_has_a_gradient() -> None:
    """In float32, where its probability, e^-200, is 0."""
    classes = Classes(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    student = torch.tensor([[0.0, -200.0]]).requires_grad_()
    found = projected_kl(student, torch.zeros(1, 2), classes)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(100 - math.log(2))
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([0.5, -0.5])
