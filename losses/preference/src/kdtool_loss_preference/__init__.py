"""Learning which of two answers is preferred, against a reference model (DPO).

`DirectPreference` is the loss that recipes call `preference`; `preference_loss` is the same as a plain function of
margins, and `margins` are those of rows of pairs. Only methods of tensors are used, so importing this costs nothing. Weights
and means are the trainer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool
from kdtool_torch import NO_LABEL, at_least_float32, both_sides, compute_on_host

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DirectPreference", "margins", "preference_loss"]


def preference_loss(margin: Tensor, beta: float = 0.1) -> Tensor:
    """Return −log σ(β·m), per pair.

    m = [log π(y_w|x) − log π_ref(y_w|x)] − [log π(y_l|x) − log π_ref(y_l|x)] is how much more the student prefers the
    chosen answer y_w to the rejected y_l than the reference does: equation 7 of Rafailov et al. (DPO), arXiv 2305.18290.

    log 2 if student and reference agree (m = 0), with the gradient −½·β by m, which is not 0. It falls to 0 as m grows.

    Args:
        margin: [B], any floating type; computed in float32 or better.
        beta: β > 0: how strongly the reference constrains the student. The larger, the smaller the margin needed.

    Returns:
        [B], in nats, at least 0.
    """
    return _softplus(-beta * at_least_float32(margin))


def margins(student: Tensor, reference: Tensor, rejected: Tensor, row: Tensor, rows: int) -> Tensor:
    """Return each row's margin m = Σ_chosen (log π − log π_ref) − Σ_rejected (log π − log π_ref) over its tokens.

    Args:
        student: [N] log-likelihoods of tokens.
        reference: [N], of the same tokens.
        rejected: [N], not 0 on tokens of the rejected answer, 0 on those of the chosen one.
        row: [N] int64, the row of each token.
        rows: how many there are, B.

    Returns:
        [B], in nats; 0 for a row without tokens.
    """
    ratio = student - reference
    return ratio.new_zeros(rows).index_add(0, row, ratio.where(rejected == 0, -ratio))


class DirectPreference(kdtool.SequenceLoss):
    """DPO: raises the chosen answer's likelihood relative to the rejected one and a reference model.

    The teacher is the reference, usually the student as it was before. Rows are those of `rows: {use: pairs}`. Likelihoods
    are of whole answers, not of a mean token.
    """

    needs = "logits"
    columns = frozenset({"rejected"})
    corpus_only = True
    config: Config

    class Config(kdtool.Config):
        """Settings of `preference`."""

        beta: float = kdtool.Field(default=0.1, gt=0, le=100)
        """β: strength of the pull towards the reference; small values let the student move far from it."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerSequence:
        """Return `preference_loss` of each row.

        Raises:
            kdtool.UsageError: the rows contain no pairs.
        """
        row, rejected = _pairs(view.batch)
        student, reference = both_sides(view, "preference")
        margin = margins(student.likelihoods(), reference.likelihoods(), rejected, row, len(view.batch.labels))
        return kdtool.PerSequence(preference_loss(margin, self.config.beta))


def _pairs(batch: kdtool.Batch) -> tuple[Tensor, Tensor]:
    """Return the row of each labelled token and whether it is rejected, [N] each."""
    marks = batch.columns.get("rejected")
    if marks is None:
        raise _no_pairs("these rows mark no token as rejected")
    return compute_on_host(_find_pairs, batch.labels, marks)


def _find_pairs(labels: Tensor, marks: Tensor) -> tuple[Tensor, Tensor]:
    asked = labels != NO_LABEL
    has_rejected, has_chosen = ((asked & (marks != 0)).any(1), (asked & (marks == 0)).any(1))
    if bool((has_rejected != has_chosen).any()):
        raise _no_pairs("a row holds answers of one kind only")
    return asked.nonzero()[:, 0], marks[asked]


def _no_pairs(found: str) -> kdtool.UsageError:
    return kdtool.UsageError(
        f"preference learns from a chosen and a rejected answer in each row, but {found}: set `rows: {{use: pairs}}` in the "
        "recipe or in this phase, with a corpus that has both, such as jsonl with the fields prompt, chosen and rejected"
    )


def _softplus(x: Tensor) -> Tensor:
    """Return log(1 + eˣ)."""
    return x.logaddexp(x.new_zeros(()))
