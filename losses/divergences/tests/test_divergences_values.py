"""Values of the divergences: plain loops in float64 that share no code, cases by hand, and what theory says of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from kdtool_loss_divergences import (
    AdaptiveKL,
    Contrastive,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
    adaptive_kl,
    contrastive,
    forward_kl,
    jensen_shannon,
    reverse_kl,
    reverse_kl_gradient,
    sampled_forward_kl,
    sampled_forward_kl_gradient,
    skew_kl,
    skew_reverse_kl,
    support_from_chosen,
    support_from_logits,
    support_reverse_kl,
    support_reverse_kl_gradient,
    top_k_forward_kl,
    top_k_forward_kl_gradient,
    total_variation,
)
from torch import Tensor

logits = st.lists(st.floats(-8, 8), min_size=5, max_size=5)
temperatures = st.floats(0.3, 5)
betas = st.floats(0.01, 0.99)
Divergence = Callable[[Tensor, Tensor, float], Tensor]
DIVERGENCES: dict[str, Divergence] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "jensen_shannon": lambda s, t, temperature: jensen_shannon(s, t, temperature, 0.3),
    "skew": lambda s, t, temperature: skew_kl(s, t, temperature, 0.2),
    "skew_reverse": lambda s, t, temperature: skew_reverse_kl(s, t, temperature, 0.2),
    "contrastive": lambda s, t, temperature: contrastive(s, t, torch.arange(len(s)) % 2, temperature, 0.2),
    "adaptive": adaptive_kl,
    "total_variation": total_variation,
}
CURVATURE = {"jensen_shannon": 0.3 * 0.7, "skew": 0.8**2, "skew_reverse": 0.8**2, "contrastive": 0.8**2}
"""Factors of KL's curvature at p = q."""
each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def probabilities(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def plain_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@given(logits, logits, temperatures, betas)
def test_values_are_what_plain_loops_say(student: list[float], teacher: list[float], t: float, beta: float) -> None:
    q, p = probabilities(student, t), probabilities(teacher, t)
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    assert forward_kl(row(student), row(teacher), t).item() == pytest.approx(plain_kl(p, q), rel=1e-8, abs=1e-10)
    assert reverse_kl(row(student), row(teacher), t).item() == pytest.approx(plain_kl(q, p), rel=1e-8, abs=1e-10)
    expected = beta * plain_kl(p, m) + (1 - beta) * plain_kl(q, m)
    assert jensen_shannon(row(student), row(teacher), t, beta).item() == pytest.approx(expected, rel=1e-8, abs=1e-10)


@given(logits, logits, temperatures, betas)
def test_bounded_ones_are_what_plain_loops_say(
    student: list[float], teacher: list[float], t: float, alpha: float
) -> None:
    q, p = probabilities(student, t), probabilities(teacher, t)
    forwards = [alpha * a + (1 - alpha) * b for a, b in zip(p, q, strict=True)]
    backwards = [(1 - alpha) * a + alpha * b for a, b in zip(p, q, strict=True)]
    found = (
        skew_kl(row(student), row(teacher), t, alpha).item(),
        skew_reverse_kl(row(student), row(teacher), t, alpha).item(),
    )
    assert found == pytest.approx((plain_kl(p, forwards), plain_kl(q, backwards)), rel=1e-8, abs=1e-10)
    assert max(found) <= -math.log(alpha) + 1e-12
    moved = sum(max(a - b, 0) for a, b in zip(p, q, strict=True))
    assert total_variation(row(student), row(teacher), t).item() == pytest.approx(moved, rel=1e-8, abs=1e-10)


@given(logits, logits)
def test_the_ends_of_the_skewed_ones_are_the_kls(student: list[float], teacher: list[float]) -> None:
    s, t = row(student) / 4, row(teacher) / 4
    assert skew_kl(s, t, 1.0, 1e-9).item() == pytest.approx(forward_kl(s, t).item(), rel=1e-5, abs=1e-7)
    assert skew_reverse_kl(s, t, 1.0, 1e-9).item() == pytest.approx(reverse_kl(s, t).item(), rel=1e-5, abs=1e-7)


@given(logits, logits, temperatures, st.floats(0, 0.99))
def test_adaptive_kl_weighs_by_where_the_student_is_wrong(
    student: list[float], teacher: list[float], t: float, head: float
) -> None:
    q, p = probabilities(student, t), probabilities(teacher, t)
    assume(all(a == b or abs(a - b) > 1e-9 for a in teacher for b in teacher))  # rounding must not decide the order
    order = sorted(range(len(p)), key=lambda token: -p[token])
    in_head, covered = [order[0]], p[order[0]]
    for token in order[1:]:
        covered += p[token]
        in_head += [token] if covered <= head else []
    gaps = [abs(a - b) for a, b in zip(p, q, strict=True)]
    assume(sum(gaps) > 1e-6)
    assume(all(abs(sum(p[token] for token in order[: n + 1]) - head) > 1e-9 for n in range(len(p))))
    share = sum(gaps[token] for token in in_head) / sum(gaps)
    expected = share * plain_kl(p, q) + (1 - share) * plain_kl(q, p)
    assert adaptive_kl(row(student), row(teacher), t, head).item() == pytest.approx(expected, rel=1e-7, abs=1e-10)


def test_the_weight_of_adaptive_kl_has_no_gradient() -> None:
    """p = (½, ¼, ¼), q = (¼, ¼, ½): gaps (¼, 0, ¼), so half of each KL, and half of each one's gradient."""
    teacher, student = row([2.0, 1.0, 1.0]).log(), row([1.0, 1.0, 2.0]).log().requires_grad_()
    (found,) = torch.autograd.grad(adaptive_kl(student, teacher).sum(), student)
    (forward,) = torch.autograd.grad(forward_kl(student, teacher).sum(), student)
    (reverse,) = torch.autograd.grad(reverse_kl(student, teacher).sum(), student)
    torch.testing.assert_close(found, (forward + reverse) / 2)


def test_a_case_by_hand() -> None:
    """p = (1/2, 1/2), q = (1/4, 3/4): KL(p‖q) = log 2 − ½·log 3, KL(q‖p) = ¾·log 3 − log 2."""
    student, teacher = row([1.0, 3.0]).log(), row([1.0, 1.0]).log()
    assert forward_kl(student, teacher).item() == pytest.approx(math.log(2) - math.log(3) / 2)
    assert reverse_kl(student, teacher).item() == pytest.approx(3 * math.log(3) / 4 - math.log(2))
    # m = (3/8, 5/8) at β = ½: half of ½·log(4/3) + ½·log(4/5), and half of ¼·log(2/3) + ¾·log(6/5).
    forward, backward = (math.log(4 / 3) + math.log(4 / 5)) / 2, (math.log(2 / 3) + 3 * math.log(6 / 5)) / 4
    assert jensen_shannon(student, teacher).item() == pytest.approx((forward + backward) / 2)
    # With α = ½ both skewed ones compare with m = (3/8, 5/8), too.
    assert skew_kl(student, teacher, 1.0, 0.5).item() == pytest.approx(forward)
    assert skew_reverse_kl(student, teacher, 1.0, 0.5).item() == pytest.approx(backward)
    assert total_variation(student, teacher).item() == pytest.approx(1 / 4)
    # The gap is ¼ in the head, one of two equal tokens, and ¼ in the tail: the mean of the two KLs, (3/8 − ¼)·log 3.
    assert adaptive_kl(student, teacher).item() == pytest.approx(math.log(3) / 8)
    # At T = ½ the odds 1 : 3 become 1 : 9, so q = (1/10, 9/10).
    assert forward_kl(student, teacher, 0.5).item() == pytest.approx(math.log(5 / 3))


@given(logits, logits, temperatures, betas, st.booleans())
def test_contrastive_compares_what_each_wrote_as_plain_loops_say(
    student: list[float], teacher: list[float], t: float, alpha: float, own: bool
) -> None:
    q, p = probabilities(student, t), probabilities(teacher, t)
    of, other = (q, p) if own else (p, q)
    expected = plain_kl(of, [alpha * a + (1 - alpha) * b for a, b in zip(of, other, strict=True)])
    found = contrastive(row(student), row(teacher), torch.tensor([int(own)]), t, alpha)
    assert found.item() == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_contrastive_by_hand_and_its_gradient() -> None:
    """p = (½, ½), q = (¼, ¾), α = ½, so m = (3/8, 5/8): one position of each kind, as for the two skewed ones above."""
    student, teacher = row([1.0, 3.0]).log().repeat(2, 1), row([1.0, 1.0]).log().repeat(2, 1)
    own = torch.tensor([0, 1])
    forward, backward = (math.log(4 / 3) + math.log(4 / 5)) / 2, (math.log(2 / 3) + 3 * math.log(6 / 5)) / 4
    assert contrastive(student, teacher, own, 1.0, 0.5).tolist() == pytest.approx([forward, backward])
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: contrastive(z, teacher, own, 2.0, 0.2), student)


@each_divergence
@given(student=logits, teacher=logits, t=temperatures, shift=st.floats(-50, 50))
def test_it_is_never_negative_and_blind_to_shifts(
    divergence: Divergence, student: list[float], teacher: list[float], t: float, shift: float
) -> None:
    value = divergence(row(student), row(teacher), t).item()
    assert value > -1e-12
    assert divergence(row(student) + shift, row(teacher) - shift, t).item() == pytest.approx(value, abs=1e-9)


@each_divergence
@given(student=logits, t=temperatures)
def test_equals_are_at_distance_zero_with_zero_gradient(divergence: Divergence, student: list[float], t: float) -> None:
    z = row(student).requires_grad_()
    value = divergence(z, row(student), t)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert z.grad is not None
    assert z.grad.abs().max() < 1e-12


@pytest.mark.parametrize("name", sorted(DIVERGENCES.keys() - {"total_variation"}))
def test_times_t_squared_it_keeps_its_size_when_softened(name: str) -> None:
    """T²·D tends to a multiple of the variance of the difference of logits (Hinton et al., equation 4)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = CURVATURE.get(name, 1) * (student - teacher).var(-1, correction=0) / 2
    torch.testing.assert_close(DIVERGENCES[name](student, teacher, 1e3) * 1e6, expected, rtol=1e-2, atol=1e-4)


SOFTENED: dict[str, type[kdtool.Loss]] = {
    "forward": ForwardKL,
    "reverse": ReverseKL,
    "jensen_shannon": JensenShannon,
    "skew": SkewKL,
    "skew_reverse": SkewReverseKL,
    "contrastive": Contrastive,
    "adaptive": AdaptiveKL,
    "total_variation": TotalVariation,
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_weight_means_the_same_at_every_temperature(name: str) -> None:
    """T^softened times the gradient tends to one size, which logits so near each other have reached at T = 2."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(8, 200, generator=generator, dtype=torch.float64) / 4 for _ in range(2))
    sizes = []
    for t in (2.0, 4.0, 8.0, 16.0):
        z = student.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(DIVERGENCES[name](z, teacher, t).sum(), z)
        sizes.append(t ** SOFTENED[name].temperature_power * gradient.norm().item())
    assert sizes == pytest.approx([sizes[-1]] * 4, rel=0.1)


@given(logits, logits)
def test_the_ends_of_jensen_shannon_are_the_two_kls(student: list[float], teacher: list[float]) -> None:
    s, t, small = row(student) / 4, row(teacher) / 4, 1e-6
    assert jensen_shannon(s, t, 1.0, small).item() / small == pytest.approx(forward_kl(s, t).item(), rel=1e-3, abs=1e-6)
    assert jensen_shannon(s, t, 1.0, 1 - small).item() / small == pytest.approx(
        reverse_kl(s, t).item(), rel=1e-3, abs=1e-6
    )


@given(logits, logits, betas)
def test_jensen_shannon_is_below_the_entropy_of_its_mixture(
    student: list[float], teacher: list[float], beta: float
) -> None:
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert jensen_shannon(row(student), row(teacher), 0.3, beta).item() <= bound + 1e-12


@given(logits, logits, temperatures, st.integers(1, 5))
def test_top_k_is_a_lower_bound_and_exact_with_all_tokens(
    student: list[float], teacher: list[float], t: float, k: int
) -> None:
    p = (row(teacher) / t).softmax(-1)
    weights, ids = p.topk(k)
    value = top_k_forward_kl(row(student), ids.int(), weights, t).item()
    exact = forward_kl(row(student), row(teacher), t).item()
    assert -1e-12 < value <= exact + 1e-9
    if k >= len(student) - 1:
        assert value == pytest.approx(exact, abs=1e-9)
    assert top_k_forward_kl(row(teacher), ids.int(), weights, t).item() == pytest.approx(0, abs=1e-9)


def test_top_k_puts_the_rest_into_one_bucket() -> None:
    """p = (½, ¼, ¼), q = (¼, ¼, ½), k = 1: (½, ½) against (¼, ¾), the case by hand above."""
    value = top_k_forward_kl(row([1.0, 1.0, 2.0]).log(), torch.tensor([[0, -1]]), torch.tensor([[0.5, 0.0]]))
    assert value.item() == pytest.approx(math.log(2) - math.log(3) / 2)


@given(logits, logits, temperatures)
def test_sampled_tokens_give_forward_kl_and_its_gradient_on_average(
    student: list[float], teacher: list[float], t: float
) -> None:
    """The estimate is linear in the samples, so its mean over one draw, weighed by p, is its expectation for any number."""
    p = probabilities(teacher, t)
    z = row(student).requires_grad_()
    estimates = [sampled_forward_kl(z, torch.tensor([[v]]), torch.ones(1, 1), t) for v in range(len(p))]
    mean = torch.stack([share * estimate for share, estimate in zip(p, estimates, strict=True)]).sum()
    entropy = -sum(a * math.log(a) for a in p)
    assert mean.item() == pytest.approx(forward_kl(row(student), row(teacher), t).item() + entropy, abs=1e-9)
    exact = row(student).requires_grad_()
    (found,) = torch.autograd.grad(mean, z)
    (expected,) = torch.autograd.grad(forward_kl(exact, row(teacher), t).sum(), exact)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)


def test_padding_of_sparse_tokens_changes_nothing() -> None:
    student = row([0.3, -1.0, 2.0, 0.1])
    ids, weights = torch.tensor([[2, 3]]), torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    padded = torch.tensor([[2, 3, -1, -1]]), torch.tensor([[0.5, 0.25, 0, 0]], dtype=torch.float64)
    for loss in (sampled_forward_kl, top_k_forward_kl):
        assert loss(student, *padded).item() == loss(student, ids, weights).item()


@given(
    logits,
    logits,
    temperatures,
    st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(0, 7), max_size=4),
)
def test_padding_may_stand_anywhere(
    student: list[float], teacher: list[float], t: float, chosen: list[int], places: list[int]
) -> None:
    """Cut to the tokens that two vocabularies share, a position may lose any of its tokens, the first and all too."""
    p, entries = (row(teacher) / t).softmax(-1)[0], [*chosen]
    for place in places:
        entries.insert(min(place, len(entries)), -1)
    plain, padded = (
        (torch.tensor([ids]), row([float(p[i]) if i >= 0 else 0.0 for i in ids])) for ids in (chosen, entries)
    )
    for loss, by_hand in (
        (sampled_forward_kl, sampled_forward_kl_gradient),
        (top_k_forward_kl, top_k_forward_kl_gradient),
    ):
        found = []
        for ids, weights in (plain, padded):
            z = row(student).requires_grad_()
            value = loss(z, ids, weights, t)
            found += [(value.detach(), *torch.autograd.grad(value.sum(), z)), by_hand(z.detach(), ids, weights, t)]
        for one in found[1:]:
            torch.testing.assert_close(one, found[0], rtol=1e-7, atol=1e-9)


def test_where_no_token_was_kept_nothing_is_learned() -> None:
    for width in (1, 3):
        ids, weights = torch.full((1, width), -1), torch.zeros(1, width, dtype=torch.float64)
        z = row([0.3, -1.0, 2.0]).requires_grad_()
        for loss, by_hand in (
            (sampled_forward_kl, sampled_forward_kl_gradient),
            (top_k_forward_kl, top_k_forward_kl_gradient),
        ):
            value = loss(z, ids, weights)
            (gradient,) = torch.autograd.grad(value.sum(), z)
            for found, slope in ((value, gradient), by_hand(z.detach(), ids, weights)):
                assert found.item() == 0
                assert not slope.any()


@each_divergence
def test_a_teacher_that_excludes_tokens_gives_no_nan(divergence: Divergence) -> None:
    teacher = row([0.0, -math.inf, 1.0])
    student = row([0.5, -30.0, 0.2]).requires_grad_()
    value = divergence(student, teacher, 1.0)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert not value.isnan().any()
    assert student.grad is not None
    assert not student.grad.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("excluded", [-math.inf, -1e4])
@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
def test_a_token_that_the_teacher_excludes_costs_no_more_than_the_floor(
    excluded: float, t: float, dtype: torch.dtype
) -> None:
    """q·(log q + 100) for that token, at any temperature; gradients are of that size, by hand and by autograd."""
    teacher = row([0.0, excluded, 1.0]).to(dtype)
    q, (first, _, third) = probabilities([0.5, 3.0, 0.2], t), probabilities([0.0, -1e4, 1.0], t)
    logs = [math.log(first), -100.0, math.log(third)]
    expected = sum(a * (math.log(a) - b) for a, b in zip(q, logs, strict=True))
    student = row([0.5, 3.0, 0.2]).to(dtype).requires_grad_()
    value = reverse_kl(student, teacher, t)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert float(gradient.abs().max()) < 100 / t
    by_hand = reverse_kl_gradient(student.detach(), teacher, t)
    torch.testing.assert_close(by_hand, (value.detach(), gradient), rtol=1e-4, atol=1e-4)
    found = adaptive_kl(student, teacher, t)
    assert 0 < found.item() < 200
    assert float(torch.autograd.grad(found.sum(), student)[0].abs().max()) < 200 / t


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_divergence
def test_half_precision_logits_are_computed_in_float32(divergence: Divergence, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = ((5 * torch.randn(6, 4000, generator=generator)).to(dtype) for _ in range(2))
    exact = divergence(student.double(), teacher.double(), 1.0)
    torch.testing.assert_close(divergence(student, teacher, 1.0).double(), exact, rtol=1e-5, atol=1e-6)


def chunk(teacher: Any, temperature: float = 1.0) -> kdtool.TokenChunk:
    here = torch.zeros(1, dtype=torch.int64)
    return kdtool.TokenChunk(row([1.0, 2.0]), here, teacher, here, temperature, torch.tensor(0.0), torch.tensor(0))


def test_a_signal_that_does_not_serve_is_refused() -> None:
    sparse = kdtool.SparseTokens(torch.tensor([[0]]), torch.ones(1, 1), "sampled", 1.0)
    with pytest.raises(kdtool.PluginError, match="SparseTokens"):
        ReverseKL(ReverseKL.Config()).kdtool_token_loss(chunk(sparse))


@given(logits, logits, temperatures, st.integers(1, 5))
def test_a_support_compares_its_tokens_and_the_rest_as_one(
    student: list[float], teacher: list[float], t: float, size: int
) -> None:
    q, p = probabilities(student, t), probabilities(teacher, t)
    order = row(student).topk(size).indices[0].tolist()
    others = [index for index in range(5) if index not in order]
    buckets = [[each] for each in order] + [others] * bool(others)
    expected = plain_kl(*([sum(each[i] for i in bucket) for bucket in buckets] for each in (q, p)))
    support = support_from_logits(row(student), row(teacher), t, size)
    value = support_reverse_kl(row(student), support, t).item()
    assert value == pytest.approx(expected, rel=1e-8, abs=1e-10)
    assert value <= reverse_kl(row(student), row(teacher), t).item() + 1e-10
    if size == 5:
        assert value == pytest.approx(reverse_kl(row(student), row(teacher), t).item(), rel=1e-8, abs=1e-10)


@given(logits, logits, temperatures, st.integers(1, 5))
def test_the_gradient_on_a_support_is_autograd_s(
    student: list[float], teacher: list[float], t: float, size: int
) -> None:
    z, support = row(student).requires_grad_(), support_from_logits(row(student), row(teacher), t, size)
    value = support_reverse_kl(z, support, t)
    (expected,) = torch.autograd.grad(value.sum(), z)
    found, gradient = support_reverse_kl_gradient(row(student), support, t)
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(gradient, expected)


def test_chosen_tokens_are_those_of_the_logits_and_padding_counts_nothing() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 50, dtype=torch.float64), torch.randn(6, 50, dtype=torch.float64)
    expected = support_from_logits(student, teacher, 1.0, 4)
    ids = torch.cat([expected.ids, student.topk(8).indices[:, 4:]], 1)
    logs = teacher.log_softmax(-1).gather(-1, ids)
    for padded, padded_logs in (
        (ids, logs),
        (torch.cat([ids[:, :4], -torch.ones(6, 2).long()], 1), torch.cat([logs[:, :4], torch.zeros(6, 2)], 1)),
    ):
        size = 4 if padded is ids else 6
        support = support_from_chosen(padded.int(), padded_logs, size)
        found = support_reverse_kl_gradient(student, support)
        for one, two in zip(found, support_reverse_kl_gradient(student, expected), strict=True):
            torch.testing.assert_close(one, two)
        torch.testing.assert_close(support_reverse_kl(student, support), found[0])


def test_a_teacher_s_rounding_cannot_make_the_rest_of_a_support_impossible() -> None:
    """Sixteen rounded log-probabilities may sum to more than 1, and the rest is then not worth 100 nats."""
    student = torch.zeros(1, 40)
    student[0, :4] = 9.0
    logs = torch.full((1, 4), 0.2501).log()
    value, gradient = support_reverse_kl_gradient(student, support_from_chosen(torch.arange(4)[None], logs, 4))
    assert abs(float(value)) < 0.1
    assert gradient.abs().max() < 0.1
