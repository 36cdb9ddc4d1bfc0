"""The unbiased estimator of pass@k."""

from __future__ import annotations

from math import prod

__all__ = ["pass_at_k"]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the estimated probability that at least one of k samples passes, given that c of n samples passed.

    1 − C(n − c, k) / C(n, k), as a product that neither overflows nor cancels. Chen et al. 2021 (arXiv 2107.03374),
    equation 1 and its figure 3.

    Args:
        n: samples drawn, at least k.
        c: samples that passed, 0 to n.
        k: from 1.

    Raises:
        ValueError: k is not in 1…n, or c not in 0…n.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(
            f"pass@{k} of {n} samples, {c} passed, cannot be estimated: expected are 1 ≤ k ≤ n and 0 ≤ c ≤ n"
        )
    return 1.0 if n - c < k else 1.0 - prod(1 - k / i for i in range(n - c + 1, n + 1))
