"""Losses balanced against each other while they train: `uncertainty`, `gradnorm` and `on-metric`.

One step of learned uncertainty and of GradNorm are plain functions; GradNorm computes in logarithms, so that norms may
have any size. Only numbers are handled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, fsum, inf, isfinite, log
from typing import Any

import kdtool

_SMOOTHING = 0.9
"""Share of a running mean that stays at each step."""


class Uncertainty(kdtool.Weighting):
    """Divides each loss by a learned variance, so that large and noisy losses do not drown the others.

    A term's factor is exp(-s), twice that of the paper, so that s = 0 leaves the recipe's weights as they are. At rest every
    term, before its weight, contributes 1: the weights are then the terms' shares. Takes losses that are not negative.
    """

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float]:
        """Return exp(-s) of each term, after `uncertainty_step` on the last step's values; `state` holds s of each term."""
        values = {name: term.value for name, term in terms.items()}
        state.update(uncertainty_step(state, values))
        return {name: exp(-s) for name, s in state.items()}


class GradNorm(kdtool.Weighting):
    """Lets all losses train at one rate: gradients of those that learn slowly are made larger, of the others smaller.

    The factors' sum stays the number of terms. A term without a gradient norm, or whose norm or value is 0, keeps its
    factor at that step, and the others are balanced among themselves.
    """

    gradient_norms = True
    config: Config

    class Config(kdtool.Config):
        """Settings of `gradnorm`."""

        alpha: float = kdtool.Field(default=1.5, ge=0, le=10)
        """Strength with which training rates are drawn together; 0 makes gradient norms equal, regardless of the rates."""

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float]:
        """Return the factor of each term, after `gradnorm_step` on the last step's norms and values.

        `state` holds each term's first value and the logarithm of its factor.
        """
        first: dict[str, float] = state.setdefault("first", {})
        log_factors: dict[str, float] = state.setdefault("log_factors", {})
        norms = {name: term.gradient_norm or 0.0 for name, term in terms.items() if _tells(term)}
        for name in terms:
            log_factors.setdefault(name, 0.0)
        for name in norms:
            first.setdefault(name, terms[name].value)
        if norms:
            ratios = {name: log(terms[name].value) - log(first[name]) for name in norms}
            before = {name: log_factors[name] for name in norms}
            log_factors |= gradnorm_step(before, norms, ratios, self.config.alpha)
        return {name: exp(logarithm) for name, logarithm in log_factors.items()}


class OnMetric(kdtool.Weighting):
    """Multiplies a loss's weight by a factor once a loss's value has fallen below a threshold.

    The metric is the running mean of the loss's value, before its weight. The factor stays, even if the value rises again.
    If a loss is missing, as in a control that has others, all weights stay.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `on-metric`."""

        watch: str = kdtool.Field(min_length=1, max_length=64)
        """The loss whose value decides, by its name in the recipe."""
        below: float = kdtool.Field(ge=-1e9, le=1e9)
        """Threshold below which its running mean must fall."""
        change: str = kdtool.Field(min_length=1, max_length=64)
        """The loss whose weight changes then; it may be the same."""
        factor: float = kdtool.Field(default=0.0, ge=0, le=1e6)
        """Factor of its weight; 0 switches it off."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.terms = frozenset({config.watch, config.change})

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float] | None:
        """Return the factor of the loss that changes, once it has changed.

        `state` holds the running mean, whether it has crossed the threshold, and the components of both losses.
        """
        config = self.config
        paths: dict[str, str] = state.setdefault("paths", {})
        paths |= {short: name for name in terms if (short := name.rpartition(".")[2]) in self.terms}
        watched = terms.get(paths.get(config.watch, ""))  # missing if the loss saw no token at this step
        if watched is not None and isfinite(watched.value):
            mean = state.get("mean", watched.value)
            state["mean"] = mean + (1 - _SMOOTHING) * (watched.value - mean)
        state["changed"] = state.get("changed", False) or state.get("mean", inf) < config.below
        return {paths[config.change]: config.factor} if state["changed"] and config.change in paths else None


def _tells(term: kdtool.TermReport) -> bool:
    """Return whether the logarithms of a term's figures are finite."""
    return 0 < (term.gradient_norm or 0.0) < inf and 0 < term.value < inf


def uncertainty_step(
    log_variances: Mapping[str, float], values: Mapping[str, float], learning_rate: float = 0.05, limit: float = 100.0
) -> dict[str, float]:
    """Return the log-variances after one step of gradient descent on Σ_i ½·(exp(−s_i)·L_i + s_i), L_i held fixed.

    ∂/∂s_i = ½·(1 − exp(−s_i)·L_i), so s_i ← s_i − ½·η·(1 − exp(−s_i)·L_i). Where L_i stays, s_i comes to log L_i, where
    exp(−s_i)·L_i is 1 for every term. Kendall, Gal and Cipolla, arXiv 1705.07115, section 3.2, with s = log σ² as there:
    their equation 7 for squared errors, for the other losses it is taken over as usual. They let the network's optimizer
    learn s; here it is plain descent.

    Each s_i stays within ±log `limit`: a loss near 0 would otherwise get an unbounded weight.

    Args:
        log_variances: s of each term; one that is missing begins at 0.
        values: L of each term, from 0, finite.
        learning_rate: η > 0: near rest, 2 / η steps cover most of the remaining distance.
        limit: above 1.

    Returns:
        s of each term in `values`.
    """
    bound = log(limit)
    stepped = {}
    for name, value in values.items():
        s = log_variances.get(name, 0.0)
        stepped[name] = min(bound, max(-bound, s - learning_rate / 2 * (1 - exp(-s) * value)))
    return stepped


def gradnorm_step(
    log_factors: Mapping[str, float],
    norms: Mapping[str, float],
    ratios: Mapping[str, float],
    alpha: float,
    learning_rate: float = 0.025,
) -> dict[str, float]:
    """Return the logarithms of the terms' factors w_i after one step towards equal training rates.

    With G_i the norm of the gradient of w_i·L_i, log Ḡ of their mean, and the relative inverse training rate
    r_i = (L_i(t) / L_i(0)) / mean_j (L_j(t) / L_j(0)), the target is T_i = Ḡ·r_i^α (Chen et al., arXiv 1711.02257,
    equation 1). A term that learns slowly should have a larger gradient; α = 0 makes all norms equal.

    They descend Σ|G_i − T_i| by w_i (equation 2), with Adam, whose step forgets the gradient's size. Here it is
    Σ ½·(log G_i − log T_i)² by log w_i, T_i held fixed: as G_i is w_i times a factor independent of it, that is
    log w_i ← log w_i + η·(log T_i − log G_i). The same weights are at rest; they stay positive, and nothing depends on the
    norms' unit. Then all w_i are divided by one number, so that their sum stays what it was.

    Args:
        log_factors: log w of each term.
        norms: G of the same terms, above 0, with the factors in them.
        ratios: log (L(t) / L(0)) of the same terms.
        alpha: α ≥ 0.
        learning_rate: η, above 0 to 1; at 1 the step reaches the targets, but norms of single steps are noisy.

    Returns:
        log w of the same terms.
    """
    mean_norm, mean_ratio = _log_mean(log(norm) for norm in norms.values()), _log_mean(ratios.values())
    moved = {
        name: before + learning_rate * (mean_norm + alpha * (ratios[name] - mean_ratio) - log(norms[name]))
        for name, before in log_factors.items()
    }
    too_much = _log_mean(moved.values()) - _log_mean(log_factors.values())
    return {name: after - too_much for name, after in moved.items()}


def _log_mean(logs: Iterable[float]) -> float:
    """Return log mean_i exp(x_i), for x_i of any size."""
    values = list(logs)
    largest = max(values)
    return largest + log(fsum(exp(each - largest) for each in values) / len(values))
