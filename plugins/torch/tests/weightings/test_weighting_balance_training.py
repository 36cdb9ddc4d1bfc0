"""Several losses trained together by plain descent: the balances do what their papers say of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import kdtool
import pytest
from kdtool_torch.weightings import GradNorm, Uncertainty

STEEPNESS = {"losses.steep": 9.0, "losses.middle": 1.0, "losses.flat": 0.25}


class Bowls:
    """Losses ½·a·x² of which each has a coordinate of its own, so that each can learn at a rate of its own."""

    def __init__(self) -> None:
        self.at = dict.fromkeys(STEEPNESS, 1.0)

    def step(self, factors: Mapping[str, float], rate: float) -> dict[str, kdtool.TermReport]:
        """Descend once, and report as a trainer does."""
        reports = {}
        for name, a in STEEPNESS.items():
            x, factor = self.at[name], factors.get(name, 1.0)
            reports[name] = kdtool.TermReport(a * x * x / 2, factor, factor * a * abs(x))
            self.at[name] -= rate * factor * a * x
        return reports

    def left(self) -> list[float]:
        """Return L(t) / L(0) of each loss."""
        return [x * x for x in self.at.values()]


def trained(weighting: GradNorm | None, steps: int, rate: float) -> tuple[Bowls, dict[str, kdtool.TermReport]]:
    bowls, factors = Bowls(), dict.fromkeys(STEEPNESS, 1.0)
    reports, state = bowls.step(factors, rate), dict[str, Any]()
    for step in range(2, steps + 1):
        factors = dict(weighting.kdtool_balance(reports, step, state)) if weighting else factors
        reports = bowls.step(factors, rate)
    return bowls, reports


def norms(reports: Mapping[str, kdtool.TermReport]) -> list[float]:
    return [report.gradient_norm or 0.0 for report in reports.values()]


def apart(values: Sequence[float]) -> float:
    return max(values) / min(values)


def test_gradnorm_without_alpha_makes_gradient_norms_equal() -> None:
    _, alone = trained(None, 200, 1e-4)
    _, balanced = trained(GradNorm(GradNorm.Config(alpha=0.0)), 200, 1e-4)
    assert apart(norms(alone)) == pytest.approx(36, rel=0.2)
    assert apart(norms(balanced)) < 1.05


def test_gradnorm_lets_losses_train_at_one_rate() -> None:
    alone, _ = trained(None, 400, 2e-3)
    equal, _ = trained(GradNorm(GradNorm.Config(alpha=0.0)), 400, 2e-3)
    balanced, _ = trained(GradNorm(GradNorm.Config(alpha=3.0)), 400, 2e-3)
    assert apart(balanced.left()) < apart(equal.left()) < apart(alone.left())
    assert apart(balanced.left()) < 2
    assert max(balanced.left()) < 0.9 * max(alone.left()), "the one that learnt least alone learns more"


def test_uncertainty_finds_the_noise_of_each_loss() -> None:
    """L is a mean squared error of known variance, drawn anew each step: exp(s) comes to it, factor · L to 1."""
    rng, variances = random.Random(0), {"losses.loud": 4.0, "losses.even": 1.0, "losses.quiet": 0.05}
    weighting = Uncertainty(Uncertainty.Config(learning_rate=0.02))
    factors: Mapping[str, float] = {}
    state: dict[str, Any] = {}
    for step in range(2, 2000):
        errors = {name: sum(rng.gauss(0, v**0.5) ** 2 for _ in range(64)) / 64 for name, v in variances.items()}
        terms = {name: kdtool.TermReport(e, 1.0) for name, e in errors.items()}
        factors = weighting.kdtool_balance(terms, step, state)
    assert {name: 1 / factor for name, factor in factors.items()} == pytest.approx(variances, rel=0.1)


def test_a_loss_that_comes_to_nothing_is_held_by_the_limit() -> None:
    weighting = Uncertainty(Uncertainty.Config(limit=10))
    terms, state = {"a": kdtool.TermReport(0.0, 1.0), "b": kdtool.TermReport(1e9, 1.0)}, dict[str, Any]()
    for step in range(2, 1000):
        factors = weighting.kdtool_balance(terms, step, state)
    assert factors == pytest.approx({"a": 10, "b": 0.1})
