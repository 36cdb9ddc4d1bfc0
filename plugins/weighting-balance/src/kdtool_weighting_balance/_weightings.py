"""The weightings `uncertainty`, `gradnorm` and `on-metric`."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, inf, isfinite, log
from typing import Any

import kdtool
import pydantic

from kdtool_weighting_balance._gradnorm import gradnorm_step
from kdtool_weighting_balance._uncertainty import uncertainty_step

__all__ = ["GradNorm", "OnMetric", "Uncertainty"]


class Uncertainty(kdtool.Weighting):
    """Divides each loss by a learned variance, so that large and noisy losses do not drown the others.

    A term's factor is exp(-s), twice that of the paper, so that s = 0 leaves the recipe's weights as they are. At rest every
    term, before its weight, contributes 1: the weights are then the terms' shares. Takes losses that are not negative.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `uncertainty`."""

        learning_rate: float = kdtool.Field(default=0.05, gt=0, le=1)
        """Step size of the log-variances: near rest, 2 / learning_rate steps cover most of the remaining distance."""
        limit: float = kdtool.Field(default=100.0, gt=1, le=1e6)
        """No factor is above this, or below 1 / limit: a loss near 0 would otherwise get an unbounded weight."""

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float]:
        """Return exp(-s) of each term, after `uncertainty_step` on the last step's values; `state` holds s of each term."""
        values = {name: term.value for name, term in terms.items()}
        state.update(uncertainty_step(state, values, self.config.learning_rate, self.config.limit))
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
        learning_rate: float = kdtool.Field(default=0.025, gt=0, le=1)
        """Share of the distance to their targets that the factors cover per step; norms of single steps are noisy."""

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
            log_factors |= gradnorm_step(before, norms, ratios, self.config.alpha, self.config.learning_rate)
        return {name: exp(logarithm) for name, logarithm in log_factors.items()}


class OnMetric(kdtool.Weighting):
    """Multiplies a loss's weight by a factor once a loss's value has crossed a threshold.

    The metric is the running mean of the loss's value, before its weight. A change that has begun is completed, even if the
    value rises again. If a loss is missing, as in a control that has others, all weights stay.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `on-metric`."""

        watch: str = kdtool.Field(min_length=1, max_length=64)
        """The loss whose value decides, by its name in the recipe."""
        below: float | None = kdtool.Field(default=None, ge=-1e9, le=1e9)
        """Threshold below which its running mean must fall; set either this or `above`."""
        above: float | None = kdtool.Field(default=None, ge=-1e9, le=1e9)
        """Threshold above which its running mean must rise."""
        change: str = kdtool.Field(min_length=1, max_length=64)
        """The loss whose weight changes then; it may be the same."""
        factor: float = kdtool.Field(default=0.0, ge=0, le=1e6)
        """Factor of its weight; 0 switches it off."""
        over: int = kdtool.Field(default=1, ge=1, le=1_000_000)
        """Number of steps over which the factor changes linearly from 1 to `factor`; 1 changes it at once."""
        smoothing: float = kdtool.Field(default=0.9, ge=0, lt=1)
        """Share of the running mean that stays at each step; at 0 only the last step's value counts."""

        @pydantic.model_validator(mode="after")
        def _one_bound(self) -> OnMetric.Config:
            if (self.below is None) == (self.above is None):
                raise ValueError("needs one bound: `below` or `above`")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.terms = frozenset({config.watch, config.change})

    def kdtool_balance(
        self, terms: Mapping[str, kdtool.TermReport], step: int, state: dict[str, Any]
    ) -> Mapping[str, float] | None:
        """Return the factor of the loss that changes, once it has begun to change.

        `state` holds the running mean, the step at which the change began, and the components of both losses.
        """
        config = self.config
        paths: dict[str, str] = state.setdefault("paths", {})
        paths |= {short: name for name in terms if (short := name.rpartition(".")[2]) in self.terms}
        watched = terms.get(paths.get(config.watch, ""))  # missing if the loss saw no token at this step
        if watched is not None and isfinite(watched.value):
            mean = state.get("mean", watched.value)
            state["mean"] = mean + (1 - config.smoothing) * (watched.value - mean)
        if "begun" not in state and "mean" in state and self._is_past_the_bound(state["mean"]):
            state["begun"] = step
        if "begun" not in state or config.change not in paths:
            return None
        share = min(1.0, (step - state["begun"] + 1) / config.over)
        return {paths[config.change]: 1 + share * (config.factor - 1)}

    def _is_past_the_bound(self, mean: float) -> bool:
        below, above = self.config.below, self.config.above
        return mean < below if below is not None else above is not None and mean > above


def _tells(term: kdtool.TermReport) -> bool:
    """Return whether the logarithms of a term's figures are finite."""
    return 0 < (term.gradient_norm or 0.0) < inf and 0 < term.value < inf
