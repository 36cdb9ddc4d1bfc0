"""The losses `uld`, `span-likelihood` and `projected-kl`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool
from kdtool_torch import both_sides, in_chunks

from kdtool_loss_across_tokenizers._span_likelihoods import (
    boundary_likelihoods,
    boundary_mask,
    merge_spans,
    span_divergence,
)
from kdtool_loss_across_tokenizers._vocabularies import (
    Classes,
    ReadsTokenizers,
    common_classes,
    projected_kl,
    sorted_distance,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kdtool_torch import Side
    from torch import Tensor

    from kdtool_loss_across_tokenizers._alignment import Ends


class _AcrossTokenizers(kdtool.SequenceLoss):
    """A divergence from the teacher's logits, for any tokenizer of the teacher; base of all losses."""

    needs = "logits"
    divergence = True
    same_vocabulary = False


class _NextToken(_AcrossTokenizers):
    """Base of the losses that compare next-token distributions where both sides have read the same text."""

    config: Config

    class Config(kdtool.Config):
        """Settings of every loss on next-token distributions."""

        temperature: float = kdtool.Field(default=1.0, gt=0, le=100)
        """Softens both distributions: logits are divided by it. Above 1, unlikely tokens count more."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.temperature = config.temperature

    def _compare(
        self, view: kdtool.StepView, name: str, compare: Callable[[Tensor, Tensor], Tensor]
    ) -> kdtool.PerToken:
        """Return `compare(student_logits, teacher_logits)` at each position, 0 if the teacher has not read the same text."""
        from kdtool_loss_across_tokenizers._alignment import meetings

        student, teacher = both_sides(view, name)
        at, teacher_at = meetings(view)

        def values_of(part: slice) -> Tensor:
            return compare(student.logits(at[part]), teacher.logits(teacher_at[part]))

        vocabulary = max(student.head.vocabulary, teacher.head.vocabulary)
        values = in_chunks(values_of, len(at), vocabulary, at.device)
        return kdtool.PerToken(values.new_zeros(len(student.states)).index_copy(0, at, values))


class UniversalLogitDistillation(_NextToken):
    """Sorted probabilities, student's against teacher's, at positions where both have read the same text (ULD).

    Sees how sure the teacher is and among how many tokens it wavers, but not which tokens: combine it with a loss that does,
    such as `ce`.
    """

    temperature_power = 1

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return `sorted_distance` for each of the N labelled positions, 0 if the teacher has not read the same text."""
        return self._compare(view, "uld", lambda student, teacher: sorted_distance(student, teacher, self.temperature))


class ProjectedKL(ReadsTokenizers, _NextToken):
    """KL divergence of next-token distributions over classes of tokens that both vocabularies have in common (X-Token).

    A token of one side belongs to the class of the token with which the other side begins to spell it: "201" to that of "2"
    for a teacher that splits numbers into digits. Compared where both have read the same text.
    """

    temperature_power = 2

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return `projected_kl` for each of the N labelled positions, 0 if the teacher has not read the same text."""

        def divergences(student: Tensor, teacher: Tensor) -> Tensor:
            classes = self._find_classes(view, student.shape[-1])
            return projected_kl(student, teacher, classes, self.temperature)

        return self._compare(view, "projected-kl", divergences)

    def _find_classes(self, view: kdtool.StepView, vocabulary: int) -> Classes:
        """Return the classes of the tokens of both heads: the tokens themselves if both read the same."""
        import torch

        device = view.batch.labels.device
        if view.teacher_batch is None:
            each = torch.arange(vocabulary, device=device)
            return Classes(each, each, vocabulary)
        return common_classes(*self.known_tokenizers("projected-kl"), device)


class SpanLikelihood(ReadsTokenizers, _AcrossTokenizers):
    """Likelihoods of the same spans of bytes, student's against teacher's (approximate likelihood matching, ALM).

    A span runs from one point at which both tokenizers end a token to the next such point.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `span-likelihood`."""

        temperature: float = kdtool.Field(default=100.0, gt=0, le=10_000)
        """A span's probability p counts as p^(1 / temperature): above 1, unlikely and long spans count more."""
        debias: float | None = kdtool.Field(default=None, gt=0, lt=1)
        """Spans are merged until the teacher's probability that a word ends there exceeds this, and that probability counts,
        too; the authors take 0.1. None: spans are compared as they are."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return `span_divergence` at the last position of each span, 0 at all others of the N labelled positions."""
        from kdtool_loss_across_tokenizers._alignment import ends_of_spans, of_spans, spans

        sides = both_sides(view, "span-likelihood")
        of_both = spans(view)
        student, teacher = (
            of_spans(side.likelihoods(part.numbers), part) for side, part in zip(sides, of_both, strict=True)
        )
        if self.config.debias is None or view.teacher_batch is None:  # equal tokens say the same of what follows
            values = span_divergence(student, teacher, self.config.temperature)
        else:
            ends = ends_of_spans(of_both, view.batch, view.teacher_batch)
            values = self._compare_merged_spans(ends, sides, student, teacher, self.config.debias)
        return kdtool.PerToken(values.new_zeros(len(sides[0].states)).index_copy(0, of_both[0].last, values))

    def _compare_merged_spans(
        self, ends: Ends, sides: tuple[Side, Side], student: Tensor, teacher: Tensor, least: float
    ) -> Tensor:
        """Return the values of merged spans at their last one, [S], given the log-likelihoods of all spans."""
        masks = [boundary_mask(each, student.device) for each in self.known_tokenizers("span-likelihood")]
        own_end = boundary_likelihoods(sides[0], ends.student, masks[0]).where(~ends.final, 0)
        other_end = boundary_likelihoods(sides[1], ends.teacher, masks[1]).where(~ends.final, 0)
        closes = ends.final | (ends.known & (other_end.exp() > least))
        own_sum, other_sum = (merge_spans(values, ends.begins, closes) for values in (student, teacher))
        values = span_divergence(own_sum + own_end, other_sum + other_end, self.config.temperature)
        return values.where(closes, 0)
