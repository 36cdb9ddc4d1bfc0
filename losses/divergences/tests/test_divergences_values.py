"""Values of the divergences: plain loops in float64 that share no code, tokens that are missing or excluded, rounding.

The suite of losses on every divergence, also away from default settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

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
from kdtool_testing import TokenLossConformance
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
each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def probabilities(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def plain_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mixture(share: float, p: list[float], q: list[float]) -> list[float]:
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def with_one_rest(values: list[float], chosen: list[int]) -> list[float]:
    """Return the probabilities of chosen tokens, and that of all others together."""
    others = [value for token, value in enumerate(values) if token not in chosen]
    return [values[token] for token in chosen] + ([sum(others)] if others else [])


@given(logits, logits, temperatures, betas)
def test_values_are_what_plain_loops_say(student: list[float], teacher: list[float], t: float, share: float) -> None:
    q, p = probabilities(student, t), probabilities(teacher, t)
    forwards, backwards = mixture(share, p, q), mixture(share, q, p)
    expected = {
        "forward": plain_kl(p, q),
        "reverse": plain_kl(q, p),
        "jensen_shannon": share * plain_kl(p, forwards) + (1 - share) * plain_kl(q, forwards),
        "skew": plain_kl(p, forwards),
        "skew_reverse": plain_kl(q, backwards),
        "contrastive": plain_kl(p, forwards),
        "contrastive on the student's own": plain_kl(q, backwards),
        "total_variation": sum(max(a - b, 0) for a, b in zip(p, q, strict=True)),
    }
    pair = row(student), row(teacher)
    found = {
        "forward": forward_kl(*pair, t),
        "reverse": reverse_kl(*pair, t),
        "jensen_shannon": jensen_shannon(*pair, t, share),
        "skew": skew_kl(*pair, t, share),
        "skew_reverse": skew_reverse_kl(*pair, t, share),
        "contrastive": contrastive(*pair, torch.tensor([0]), t, share),
        "contrastive on the student's own": contrastive(*pair, torch.tensor([1]), t, share),
        "total_variation": total_variation(*pair, t),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-8, abs=1e-10)


@given(logits, logits, temperatures, st.integers(1, 5))
def test_tokens_outside_a_few_are_compared_as_one(
    student: list[float], teacher: list[float], t: float, size: int
) -> None:
    q, p = probabilities(student, t), probabilities(teacher, t)
    ids = row(teacher).topk(size).indices
    expected = plain_kl(*(with_one_rest(each, ids[0].tolist()) for each in (p, q)))
    found = top_k_forward_kl(row(student), ids.int(), row(p).gather(-1, ids), t)
    assert found.item() == pytest.approx(expected, rel=1e-8, abs=1e-9)
    ids = row(student).topk(size).indices
    expected = plain_kl(*(with_one_rest(each, ids[0].tolist()) for each in (q, p)))
    found = support_reverse_kl(row(student), support_from_logits(row(student), row(teacher), t, size), t)
    assert found.item() == pytest.approx(expected, rel=1e-8, abs=1e-10)


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


def test_a_signal_that_does_not_serve_is_refused() -> None:
    sparse, here = kdtool.SparseTokens(torch.tensor([[0]]), torch.ones(1, 1), "sampled", 1.0), torch.tensor([0])
    chunk = kdtool.TokenChunk(row([1.0, 2.0]), here, sparse, here, 1.0, torch.tensor(0.0), torch.tensor(0))
    with pytest.raises(kdtool.PluginError, match="SparseTokens"):
        ReverseKL(ReverseKL.Config()).kdtool_token_loss(chunk)


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


class TestForwardKL(TokenLossConformance):
    component = ForwardKL
    entry_point = "forward-kl"
    settings: ClassVar = {"temperature": 3.0}


class TestReverseKL(TokenLossConformance):
    component = ReverseKL
    entry_point = "reverse-kl"
    settings: ClassVar = {"temperature": 0.5}


class TestSupportedReverseKL(TokenLossConformance):
    component = ReverseKL
    entry_point = "reverse-kl"
    settings: ClassVar = {"support": {"student": 4}}


class TestJensenShannon(TokenLossConformance):
    component = JensenShannon
    entry_point = "jsd"
    settings: ClassVar = {"temperature": 2.0, "beta": 0.1}


class TestSkewKL(TokenLossConformance):
    component = SkewKL
    entry_point = "skew-kl"


class TestSkewReverseKL(TokenLossConformance):
    component = SkewReverseKL
    entry_point = "skew-reverse-kl"
    settings: ClassVar = {"temperature": 2.0, "alpha": 0.3}


class TestContrastive(TokenLossConformance):
    component = Contrastive
    entry_point = "contrastive"
    settings: ClassVar = {"temperature": 2.0, "alpha": 0.3}


class TestTotalVariation(TokenLossConformance):
    component = TotalVariation
    entry_point = "tvd"
    settings: ClassVar = {"temperature": 2.0}


class TestAdaptiveKL(TokenLossConformance):
    component = AdaptiveKL
    entry_point = "adaptive-kl"

    @pytest.mark.xfail(
        reason="the weight of the two KLs is a constant of the gradient, as in the authors' code", strict=True
    )
    def test_its_gradient_is_right(self) -> None:
        super().test_its_gradient_is_right()
