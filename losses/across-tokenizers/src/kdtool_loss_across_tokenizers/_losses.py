"""The losses `uld` and `span-likelihood`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool
from kdtool_torch import both_sides, in_chunks

from kdtool_loss_across_tokenizers._divergence import span_divergence
from kdtool_loss_across_tokenizers._sorted import sorted_distance

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SpanLikelihood", "UniversalLogitDistillation"]


class _AcrossTokenizers(kdtool.SequenceLoss):
    """A divergence from the teacher's logits, for any tokenizer of the teacher; base of both losses."""

    needs = "logits"
    divergence = True
    same_vocabulary = False


class UniversalLogitDistillation(_AcrossTokenizers):
    """Sorted probabilities, student's against teacher's, at positions where both have read the same text (ULD).

    Sees how sure the teacher is and among how many tokens it wavers, but not which tokens: combine it with a loss that does,
    such as `ce`.
    """

    temperature_power = 1
    config: Config

    class Config(kdtool.Config):
        """Settings of `uld`."""

        temperature: float = kdtool.Field(default=1.0, gt=0, le=100)
        """Softens both distributions: logits are divided by it. Above 1, unlikely tokens count more."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.temperature = config.temperature

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return `sorted_distance` for each of the N labelled positions, 0 if the teacher has not read the same text."""
        from kdtool_loss_across_tokenizers._alignment import meetings

        student_side, teacher_side = both_sides(view, "uld")
        at, teacher_at = meetings(view)

        def distances(part: slice) -> Tensor:
            student, teacher = student_side.logits(at[part]), teacher_side.logits(teacher_at[part])
            return sorted_distance(student, teacher, self.temperature)

        vocabulary = max(student_side.head.vocabulary, teacher_side.head.vocabulary)
        values = in_chunks(distances, len(at), vocabulary, at.device)
        return kdtool.PerToken(values.new_zeros(len(student_side.states)).index_copy(0, at, values))


class SpanLikelihood(_AcrossTokenizers):
    """Likelihoods of the same spans of bytes, student's against teacher's (approximate likelihood matching, ALM).

    A span runs from one point at which both tokenizers end a token to the next such point. Without debiasing: a token that
    implies something about the byte after it (that a word ends here) is used as it is.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `span-likelihood`."""

        temperature: float = kdtool.Field(default=100.0, gt=0, le=10_000)
        """A span's probability p counts as p^(1 / temperature): above 1, unlikely and long spans count more."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return `span_divergence` at the last position of each span, 0 at all others of the N labelled positions."""
        from kdtool_loss_across_tokenizers._alignment import of_spans, spans

        student_side, teacher_side = both_sides(view, "span-likelihood")
        student_spans, teacher_spans = spans(view)
        student, teacher = (
            of_spans(student_side.likelihoods(student_spans.numbers), student_spans),
            of_spans(teacher_side.likelihoods(teacher_spans.numbers), teacher_spans),
        )
        values = span_divergence(student, teacher, self.config.temperature)
        return kdtool.PerToken(values.new_zeros(len(student_side.states)).index_copy(0, student_spans.last, values))
