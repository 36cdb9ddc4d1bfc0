"""The mean weight of a term's tokens, over steps: trainers divide by it, so that only relative weights count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["WeightMeans"]

_KEPT = 0.9
"""Share of the running sums that stays at each step: means follow the last ten steps or so."""


class WeightMeans:
    """Running mean of the token weights that each term sees.

    A step's weights are known only when its gradients are taken. So a step is divided by the mean of the steps before it,
    and the first by its own, which costs one more pass. The sums are of whole steps, so the means do not depend on how a
    step is cut into micro-batches and ranks. `state` belongs in checkpoints.
    """

    def __init__(self, state: Mapping[str, Sequence[float]]) -> None:
        self._sums = {name: (float(weights), float(tokens)) for name, (weights, tokens) in state.items()}

    @property
    def state(self) -> dict[str, tuple[float, float]]:
        """Decayed sums of weights and of tokens, by term."""
        return self._sums

    def add(self, weights: Mapping[str, float], tokens: Mapping[str, float]) -> None:
        """Add the sums of a step, for each term that had a token with a weight: the others keep their means."""
        for name, weight in weights.items():
            if weight <= 0:
                continue
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (_KEPT * before[0] + weight, _KEPT * before[1] + tokens[name])

    def of(self, name: str) -> float:
        """Return the mean weight of a term's tokens; 1 while none had any weight."""
        weights, tokens = self._sums.get(name, (0.0, 0.0))
        return weights / tokens if weights > 0 else 1.0
