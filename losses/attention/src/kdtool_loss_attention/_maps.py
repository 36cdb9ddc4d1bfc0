"""The loss `attention`: squared distance between attention maps of paired layers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import kdtool
from kdtool_torch import PairedLayers, at_least_float32, is_labelled, pair_layers

from kdtool_loss_attention._pairs import Block, by_block

if TYPE_CHECKING:
    from torch import Tensor


def attention_distance(student: Tensor, teacher: Tensor, document: Tensor, labelled: Tensor) -> Tensor:
    """Return mean_h Σ_s (A^S_hts − A^T_hts)² of each labelled position t, over positions s ≤ t of its document.

    0 for equal maps, 2 if all heads look at single, different positions. After Jiao et al. (TinyBERT), arXiv 1909.10351,
    equation 7, with two differences: theirs are scores before the softmax, ours are the maps that models give, and so the
    sum over s is not divided by the number of positions: a map's row sums to 1, and long documents count as short ones do.

    Heads are compared one by one where both have as many. Where one side has k times as many, the mean of its heads
    k·h … k·h + k − 1 is compared with head h of the other.

    Args:
        student: [B, heads, L, L], [b, h, t, s] being what position t gives to s; computed in float32 or better.
        teacher: [B, heads of the teacher, L, L].
        document: [B, L] integers that number each row's documents: entries for other documents, and for later positions,
            are left out.
        labelled: [B, L] bool, the positions t that count. Positions that they see count, labelled or not.

    Returns:
        [N], row-major.

    Raises:
        kdtool.UsageError: neither number of heads divides the other.
    """
    heads = shared_heads(student.shape[1], teacher.shape[1])
    each = partial(_distance, heads=heads)
    return by_block(each, student, teacher, document, labelled, max(student.shape[1], teacher.shape[1]))


class AttentionMaps(PairedLayers):
    """Squared distance between attention maps: the student learns to look where the teacher looks.

    The mean over pairs of layers, 0 for equal maps, at most 2. Not softened: no temperature.
    """

    divergence = True
    needs = "attentions"
    config: Config

    class Config(kdtool.Config):
        """Settings of `attention`."""

        layers: Literal["auto"] | tuple[Annotated[int, kdtool.Field(ge=0, le=999)], ...] = "auto"
        """Student layers to compare, counted from 0. "auto" takes every second one and leaves the last to other losses.

        Each is compared with the teacher's layer that it was copied from, else with layer l · L_teacher / L_student."""

    def kdtool_layers(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> tuple[tuple[int, int], ...]:
        """Pair layers by the settings.

        Raises:
            kdtool.UsageError: the settings name layers that are not there, or heads of these models cannot be compared.
        """
        shared_heads(student.heads, teacher.heads)
        return pair_layers("attention.layers", self.config.layers, student, teacher)

    def compare(self, view: kdtool.StepView, teacher: kdtool.Signal, student_layer: int, teacher_layer: int) -> Tensor:
        """Return `attention_distance` of two layers' maps."""
        student_maps, teacher_maps = view.student.attentions[student_layer], teacher.attentions[teacher_layer]
        return attention_distance(student_maps, teacher_maps, view.batch.document, is_labelled(view.batch))


def shared_heads(student: int, teacher: int) -> int:
    """Return how many heads are compared: the smaller number.

    Raises:
        kdtool.UsageError: it does not divide the other number.
    """
    smaller, larger = sorted((student, teacher))
    if larger % smaller:
        raise kdtool.UsageError(
            f"attention: the student has {student} heads and the teacher {teacher}, and neither number divides the other; "
            "use a student with another number of heads, or the loss relations"
        )
    return smaller


def _distance(student: Tensor, teacher: Tensor, block: Block, *, heads: int) -> Tensor:
    away = _of_heads(student, block, heads) - _of_heads(teacher, block, heads)
    return away.masked_fill(~block.seen, 0).square().sum(-1).mean(0)


def _of_heads(maps: Tensor, block: Block, heads: int) -> Tensor:
    """Return [heads, Q, keys] of one row's maps [·, L, L]: means of neighbours if it has more heads."""
    rows = at_least_float32(maps[:, block.queries, block.first : block.stop])
    return rows.reshape(heads, -1, *rows.shape[1:]).mean(1)
