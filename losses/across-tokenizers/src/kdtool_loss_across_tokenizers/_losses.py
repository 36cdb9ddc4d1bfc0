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
    """Sorted probabilities, student's against teacher's, where both have read the same text (ULD).

    Knows how sure the teacher is and among how many tokens it wavers, not which ones they are: use it beside a loss that
    does, such as `ce`.
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
        """Return `sorted_distance` for each of the N labelled positions, 0 where the teacher has not read the same."""
        from kdtool_loss_across_tokenizers._alignment import meetings

        mine, theirs = both_sides(view, "uld")
        own, other = meetings(view)

        def distances(part: slice) -> Tensor:
            student, teacher = mine.logits(own[part]), theirs.logits(other[part])
            return sorted_distance(student, teacher, self.temperature)

        found = in_chunks(distances, len(own), max(mine.head.vocabulary, theirs.head.vocabulary))
        return kdtool.PerToken(found.new_zeros(len(mine.states)).index_copy(0, own, found))


class SpanLikelihood(_AcrossTokenizers):
    """Likelihoods of the same spans of bytes, student's against teacher's (approximate likelihood matching, ALM).

    A span runs from one place where both tokenizers end a token to the next. Without debiasing: a token that implies
    something about the byte after it (that a word ends here) is used as it is.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `span-likelihood`."""

        temperature: float = kdtool.Field(default=100.0, gt=0, le=10_000)
        """A span's probability p counts as p^(1 / temperature): above 1, unlikely and long spans count more."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return `span_divergence` at the last position of each span, 0 at all others of the N labelled positions."""
        from kdtool_loss_across_tokenizers._alignment import of_spans, spans

        mine, theirs = both_sides(view, "span-likelihood")
        own, other = spans(view)
        student, teacher = (
            of_spans(mine.likelihoods(own.numbers), own),
            of_spans(theirs.likelihoods(other.numbers), other),
        )
        found = span_divergence(student, teacher, self.config.temperature)
        return kdtool.PerToken(found.new_zeros(len(mine.states)).index_copy(0, own.last, found))
