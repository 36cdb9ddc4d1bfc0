"""Samples: unbiased, as varied as their design says, whatever the distribution."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_torch.caches.tokens import count_samples, independent_points, sample_tokens, systematic_points

DISTRIBUTIONS = st.lists(st.just(0.0) | st.floats(1e-6, 1.0), min_size=1, max_size=12).filter(any)


def counts(probabilities: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return how often each token was drawn, [C, V]."""
    ids, numbers = count_samples(sample_tokens(probabilities, points))
    assert ((ids >= 0) == (numbers > 0)).all()
    whole = torch.zeros(len(ids), probabilities.shape[1], dtype=torch.int64)
    return whole.scatter_add_(1, ids.clamp(min=0), numbers)


@given(DISTRIBUTIONS, st.floats(0, 1, exclude_max=True), st.integers(1, 40))
def test_systematic_counts_are_probabilities_rounded_up_or_down(weights: list[float], u: float, samples: int) -> None:
    p = torch.tensor([weights], dtype=torch.float64)
    p /= p.sum()
    found = counts(p, systematic_points(torch.tensor([u], dtype=torch.float64), samples))
    assert found.sum() == samples
    assert (found[p == 0] == 0).all()
    assert ((found - samples * p).abs() < 1 + 1e-9).all()


@given(DISTRIBUTIONS, st.integers(1, 7))
def test_systematic_draws_are_unbiased(weights: list[float], samples: int) -> None:
    p = torch.tensor([weights], dtype=torch.float64)
    p /= p.sum()
    offsets = (
        torch.arange(1000, dtype=torch.float64) + 0.5
    ) / 1000  # every token's boundary is met within a thousandth
    mean = counts(p.expand(1000, -1), systematic_points(offsets, samples)).double().mean(0)
    assert ((mean - samples * p[0]).abs() <= 2e-3).all()


@given(DISTRIBUTIONS, st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=9))
def test_independent_draws_are_the_tokens_at_their_numbers(weights: list[float], uniform: list[float]) -> None:
    p = torch.tensor([weights], dtype=torch.float64)
    p /= p.sum()
    points = independent_points(torch.tensor([uniform], dtype=torch.float64))
    found = counts(p, points)
    expected = torch.zeros_like(found)
    for u in uniform:
        total, token = 0.0, 0
        for token, share in enumerate(p[0].cumsum(0).tolist()):  # noqa: B007
            total = share
            if u * float(p[0].cumsum(0)[-1]) < total:
                break
        expected[0, token if p[0, token] > 0 else int(p[0].nonzero().max())] += 1
    assert torch.equal(found, expected)


def test_the_last_point_never_falls_behind_the_last_token() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0]])
    assert sample_tokens(p, torch.tensor([[1 - 1e-17]], dtype=torch.float64)).tolist() == [[1]]
