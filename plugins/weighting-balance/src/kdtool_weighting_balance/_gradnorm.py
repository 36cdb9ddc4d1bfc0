"""One step of GradNorm, as a plain function. Computed in logarithms, so that norms may have any size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, fsum, log

__all__ = ["gradnorm_step"]


def gradnorm_step(
    log_factors: Mapping[str, float],
    norms: Mapping[str, float],
    ratios: Mapping[str, float],
    alpha: float,
    learning_rate: float,
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
        learning_rate: η, above 0 to 1; at 1 the step reaches the targets.

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
