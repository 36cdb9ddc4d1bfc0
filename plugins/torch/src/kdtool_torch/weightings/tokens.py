"""Weights of tokens by entropy, by the teacher's confidence and by position, and the running mean that divides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import kdtool

from kdtool_torch.numerics import at_least_float32, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor


class _Entropy(kdtool.Weighting):
    """Common part of the two weightings by entropy."""

    config: Config

    class Config(kdtool.Config):
        """Weights of entropies."""

        threshold: float = kdtool.Field(default=0.0, ge=0, le=20)
        """Positions of less entropy, in nats, have no weight."""
        power: float = kdtool.Field(default=1.0, ge=0, le=10)
        """The others weigh as this power of their entropy; at 0 all alike."""
        temperature: float = kdtool.Field(default=1.0, gt=0, le=100)
        """The entropy is that of the distribution at this temperature."""

    def _weight(self, logits: Tensor) -> Tensor:
        config = self.config
        entropies = entropy(logits.detach(), config.temperature)
        return entropy_weight(entropies, config.threshold, config.power)


class TeacherEntropy(_Entropy):
    """Weighs positions by the teacher's entropy: where much may follow, there is much to learn from its distribution.

    Without a teacher, as in the control, all positions weigh 1. Its entropy cannot be computed from sampled or top-k tokens.
    """

    needs = "logits"

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the weight of each position, [C]."""
        if chunk.teacher is None:
            return _ones(chunk)
        assert isinstance(chunk.teacher, kdtool.DenseTokens)  # noqa: S101 - it needs logits
        return self._weight(chunk.teacher.logits)


class StudentEntropy(_Entropy):
    """Weighs positions by the student's entropy, as SE-KD does: where the student is unsure, it learns most.

    Needs no teacher, so it works with any signal, and weighs the control in the same way.
    """

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the weight of each position, [C]."""
        return self._weight(chunk.student_logits)


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
        power: float = kdtool.Field(default=1.0, ge=0, le=10)
        """Exponent of p, or of 1 - p; above 1 differences count more, at 0 all positions weigh alike."""
        temperature: float = kdtool.Field(default=1.0, gt=0, le=100)
        """The probability is that of the teacher's distribution at this temperature."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the weight of each position, [C].

        Raises:
            UsageError: the teacher's tokens were taken at another temperature.
        """
        teacher, config = chunk.teacher, self.config
        if teacher is None:
            return _ones(chunk)
        if isinstance(teacher, kdtool.SparseTokens):
            if teacher.temperature != config.temperature:
                raise kdtool.UsageError(
                    f"confidence is of temperature {config.temperature}, but the teacher's tokens were taken at "
                    f"{teacher.temperature}: give the weighting and the signals one temperature"
                )
            probabilities = top_k_probability(teacher.ids, teacher.weights, chunk.labels, config.of)
        else:
            assert isinstance(teacher, kdtool.DenseTokens)  # noqa: S101 - it needs logits or top-k tokens
            probabilities = probability(teacher.logits, chunk.labels, config.of, config.temperature)
        return confidence_weight(probabilities, config.prefer, config.power)


class Position(kdtool.Weighting):
    """Weighs tokens by their place in the document: the beginning counts less, or more, than the rest."""

    config: Config

    class Config(kdtool.Config):
        """Weight and length of the beginning."""

        first: float = kdtool.Field(default=0.0, ge=0, le=100)
        """Weight of a document's first token, relative to the rest, which is 1. Below 1 a ramp, above 1 a decay."""
        tokens: int = kdtool.Field(default=64, ge=1, le=1_000_000)
        """Number of tokens after which a line reaches 1, and an exponential has covered half of the distance to it."""
        shape: Literal["linear", "exponential"] = "linear"
        """Shape of the transition: a line, or an exponential that keeps halving the rest."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return `position_weight` of the chunk, [C]."""
        return position_weight(chunk.positions, self.config.first, self.config.tokens, self.config.shape)


def _ones(chunk: kdtool.TokenChunk) -> Tensor:
    return chunk.positions.new_ones(chunk.positions.shape).float()


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return H(p) = −Σ_v p_v·log p_v with p = softmax(logits / T), per position.

    From 0, where one token is certain, to log V.

    Args:
        logits: [C, V], any floating type; computed in float32 or better. −∞ stands for probability 0.
        temperature: T > 0.

    Returns:
        [C], in nats.
    """
    logs = log_probabilities(logits, temperature)
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


def probability(logits: Tensor, labels: Tensor, of: Of = "likeliest", temperature: float = 1.0) -> Tensor:
    """Return max_v p_v, or p_y of the label y, with p = softmax(logits / T), per position.

    Args:
        logits: [C, V], any floating type; computed in float32 or better.
        labels: [C] int64; those at or above V, which these logits do not know, have probability 0.
        of: whose probability.
        temperature: T > 0.

    Returns:
        [C], from 0 to 1.
    """
    logits = at_least_float32(logits) / temperature
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


def confidence_weight(probabilities: Tensor, prefer: Literal["sure", "unsure"] = "sure", power: float = 1.0) -> Tensor:
    """Return w = p^γ if sure positions are preferred, w = (1 − p)^γ if unsure ones are. Divide by the mean weight.

    p^1 of the likeliest token is "confidence-weighted by teacher max" (Furlanello et al., arXiv 1805.04770), which divides
    by the sum over the batch. (1 − p)^1 of the label is the teacher's uncertainty, by which Zhong et al. (ATKD), arXiv
    2402.11890, separate hard tokens from easy ones. (1 − p)^γ is the factor of the focal loss (Lin et al., arXiv
    1708.02002, section 3.2), here with the teacher's p in place of the student's.

    Args:
        probabilities: [C], from 0 to 1.
        prefer: which positions count more.
        power: γ ≥ 0; at 0 all positions count alike.

    Returns:
        [C], relative.
    """
    return (probabilities if prefer == "sure" else 1 - probabilities).pow(power)


def position_weight(
    positions: Tensor, first: float = 0.0, tokens: int = 64, shape: Literal["linear", "exponential"] = "linear"
) -> Tensor:
    """Return w(i) = 1 + (a − 1)·f(i): a at the beginning of a document, 1 far from it.

    f(i) = max(0, 1 − i / n) along a straight line, f(i) = 2^(−i / n) exponentially. a < 1 is a ramp, a > 1 a decay. Always
    between a and 1. The mean over a document of L ≥ n tokens is 1 + (a − 1)·(n + 1) / (2·L) along a line.

    Args:
        positions: [C] integers, from 0 within the document.
        first: a ≥ 0.
        tokens: n ≥ 1: where a line reaches 1, or the exponential's half-life.
        shape: which f.

    Returns:
        [C] float32, without unit.
    """
    away = positions.float() / tokens
    share = (1 - away).clamp(min=0) if shape == "linear" else (-away).exp2()
    return 1 + (first - 1) * share


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
