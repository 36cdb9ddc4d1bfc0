"""Losses balanced against each other while they train: `uncertainty` and `on-metric`. Only numbers are handled."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, inf, isfinite, log
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
