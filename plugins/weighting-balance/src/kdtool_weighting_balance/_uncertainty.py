"""One step of learned uncertainty, as a plain function."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log

__all__ = ["uncertainty_step"]


def uncertainty_step(
    log_variances: Mapping[str, float], values: Mapping[str, float], learning_rate: float, limit: float
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
        learning_rate: η > 0.
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
