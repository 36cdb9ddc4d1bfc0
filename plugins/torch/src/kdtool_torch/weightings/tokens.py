"""Weights of tokens by entropy and by the teacher's confidence, and the running mean that divides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import kdtool

from kdtool_torch.numerics import at_least_float32, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor


class StudentEntropy(kdtool.Weighting):
    """Weighs positions by the student's entropy, as SE-KD does: where the student is unsure, it learns most.

    Needs no teacher, so it works with any signal, and weighs the control in the same way.
    """

    config: Config

    class Config(kdtool.Config):
        """Weights of entropies."""

        threshold: float = kdtool.Field(default=0.0, ge=0, le=20)
        """Positions of less entropy, in nats, have no weight."""
        power: float = kdtool.Field(default=1.0, ge=0, le=10)
        """The others weigh as this power of their entropy; at 0 all alike."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the weight of each position, [C]."""
        return entropy_weight(entropy(chunk.student_logits.detach()), self.config.threshold, self.config.power)


Of = Literal["likeliest", "label"]
"""The token for the probability: the teacher's likeliest, or the one that follows in the text."""


class Confidence(kdtool.Weighting):
    """Weighs positions by how sure the teacher is: of its likeliest token, or of the token that really follows.

    Without a teacher, as in the control, all positions weigh 1.
    """

    needs = ("logits", "top-k")
    config: Config

    class Config(kdtool.Config):
        """The token for the probability, and the use of the probability."""

        of: Of = "likeliest"
        """Use the probability of the teacher's `likeliest` token, or of the `label`, the text's next token."""
        prefer: Literal["sure", "unsure"] = "sure"
        """Positions that count more: those of high probability p, by p, or those of low probability, by 1 - p."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the weight of each position, [C].

        Raises:
            UsageError: the teacher's tokens were taken at another temperature.
        """
        teacher, config = chunk.teacher, self.config
        if teacher is None:
            return _ones(chunk)
        if isinstance(teacher, kdtool.SparseTokens):
            if teacher.temperature != 1:
                raise kdtool.UsageError(
                    f"confidence is of temperature 1, but the teacher's tokens were taken at {teacher.temperature}: "
                    "record signals at temperature 1"
                )
            probabilities = top_k_probability(teacher.ids, teacher.weights, chunk.labels, config.of)
        else:
            assert isinstance(teacher, kdtool.DenseTokens)  # noqa: S101 - it needs logits or top-k tokens
            probabilities = probability(teacher.logits, chunk.labels, config.of)
        return confidence_weight(probabilities, config.prefer)


def _ones(chunk: kdtool.TokenChunk) -> Tensor:
    return chunk.positions.new_ones(chunk.positions.shape).float()


def entropy(logits: Tensor) -> Tensor:
    """Return H(p) = −Σ_v p_v·log p_v with p = softmax(logits), per position.

    From 0, where one token is certain, to log V.

    Args:
        logits: [C, V], any floating type; computed in float32 or better. −∞ stands for probability 0.

    Returns:
        [C], in nats.
    """
    logs = log_probabilities(logits, 1.0)
    return -(logs.exp() * logs).sum(-1).clamp(max=0)


def entropy_weight(entropies: Tensor, threshold: float = 0.0, power: float = 1.0) -> Tensor:
    """Return w = [H ≥ τ]·H^γ: nothing below a threshold, the entropy's power above it. Divide by the mean weight.

    τ = 0, γ = 1 weighs in proportion to the entropy ("Weighted KD" in table 1 of Tavor et al., arXiv 2602.01395). τ > 0,
    γ = 0 keeps some positions and drops the rest, all kept ones alike: the selection of SE-KD (section 4 there), which
    keeps the fifth of each sequence with the highest entropy and averages over it. That τ is a quantile of the sequence;
    here it is a number, so that a weight is its position's own and the share that is kept differs from text to text.

    Args:
        entropies: [C], in nats, from 0.
        threshold: τ ≥ 0, in nats.
        power: γ ≥ 0.

    Returns:
        [C], relative.
    """
    return entropies.pow(power).where(entropies >= threshold, 0)


def probability(logits: Tensor, labels: Tensor, of: Of = "likeliest") -> Tensor:
    """Return max_v p_v, or p_y of the label y, with p = softmax(logits), per position.

    Args:
        logits: [C, V], any floating type; computed in float32 or better.
        labels: [C] int64; those at or above V, which these logits do not know, have probability 0.
        of: whose probability.

    Returns:
        [C], from 0 to 1.
    """
    logits = at_least_float32(logits)
    known = labels < logits.shape[-1]
    chosen = logits.amax(-1) if of == "likeliest" else logits.gather(-1, labels.where(known, 0)[:, None])[:, 0]
    probabilities = (chosen - logits.logsumexp(-1)).exp().clamp(max=1)
    return probabilities if of == "likeliest" else probabilities.where(known, 0)


def top_k_probability(ids: Tensor, weights: Tensor, labels: Tensor, of: Of = "likeliest") -> Tensor:
    """Return the same from only a teacher's likeliest tokens; a label that is not among them counts as 0.

    Its probability is below the least of the K, so the error is small if K is some dozen.

    Args:
        ids: [C, K] integers, −1 for none.
        weights: [C, K] probabilities, 0 for none.
        labels: [C] int64.
        of: whose probability.

    Returns:
        [C], from 0 to 1.
    """
    probabilities = weights.amax(-1) if of == "likeliest" else weights.where(ids == labels[:, None], 0).sum(-1)
    return probabilities.clamp(max=1)


def confidence_weight(probabilities: Tensor, prefer: Literal["sure", "unsure"] = "sure") -> Tensor:
    """Return w = p if sure positions are preferred, w = 1 − p if unsure ones are. Divide by the mean weight.

    p of the likeliest token is "confidence-weighted by teacher max" (Furlanello et al., arXiv 1805.04770), which divides
    by the sum over the batch. 1 − p of the label is the teacher's uncertainty, by which Zhong et al. (ATKD), arXiv
    2402.11890, separate hard tokens from easy ones.

    Args:
        probabilities: [C], from 0 to 1.
        prefer: which positions count more.

    Returns:
        [C], relative.
    """
    return probabilities if prefer == "sure" else 1 - probabilities


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
