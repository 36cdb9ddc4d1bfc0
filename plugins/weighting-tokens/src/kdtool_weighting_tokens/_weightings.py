"""The weightings by entropy, confidence and position, as classes that recipes name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import kdtool

from kdtool_weighting_tokens._confidence import Of, confidence_weight, probability, top_k_probability
from kdtool_weighting_tokens._entropy import entropy, entropy_weight
from kdtool_weighting_tokens._position import position_weight

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Confidence", "Position", "StudentEntropy", "TeacherEntropy"]


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
        """Return the weight of each position, [C].

        Raises:
            UsageError: the teacher's signal is some tokens per position.
        """
        teacher = chunk.teacher
        if teacher is None:
            return _ones(chunk)
        if isinstance(teacher, kdtool.DenseTokens):
            return self._weight(teacher.logits)
        form = teacher.form if isinstance(teacher, kdtool.SparseTokens) else "chosen"
        raise kdtool.UsageError(
            f"teacher-entropy needs the teacher's logits, but its signal holds {form} tokens, whose entropy is far below "
            "the teacher's: leave out `signals` or use `states`, which keep logits, or take `student-entropy`"
        )


class StudentEntropy(_Entropy):
    """Weighs positions by the student's entropy, as SE-KD does: where the student is unsure, it learns most.

    Needs no teacher, so it works with any signal, and weighs the control in the same way.
    """

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the weight of each position, [C]."""
        return self._weight(chunk.student_logits)


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
            UsageError: the teacher's tokens were sampled, chosen by the student, or taken at another temperature.
        """
        teacher, config = chunk.teacher, self.config
        if teacher is None:
            return _ones(chunk)
        if isinstance(teacher, kdtool.SparseTokens):
            self._refuse_unless_it_serves(teacher)
            probabilities = top_k_probability(teacher.ids, teacher.weights, chunk.labels, config.of)
        elif isinstance(teacher, kdtool.ChosenTokens):
            raise kdtool.UsageError(
                "confidence needs logits or top-k tokens, but this signal holds the tokens that the student finds likely; "
                "use another signal, or the weighting `student-entropy`"
            )
        else:
            probabilities = probability(teacher.logits, chunk.labels, config.of, config.temperature)
        return confidence_weight(probabilities, config.prefer, config.power)

    def _refuse_unless_it_serves(self, teacher: kdtool.SparseTokens) -> None:
        if teacher.form == "sampled":  # weights of the same samples as the loss would make its mean another one
            raise kdtool.UsageError(
                "confidence needs logits or top-k tokens, not sampled ones: a weight from the loss's own samples would bias "
                "it. Use another signal cache, or the weighting `student-entropy`"
            )
        if teacher.temperature != self.config.temperature:
            raise kdtool.UsageError(
                f"confidence is of temperature {self.config.temperature}, but the teacher's tokens were taken at "
                f"{teacher.temperature}: give the weighting and the signals one temperature"
            )


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
