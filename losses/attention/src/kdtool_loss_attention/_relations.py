"""The loss `relations`: divergence of relations among queries, among keys and among values of paired layers."""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import TYPE_CHECKING, Annotated, Literal

import kdtool
from kdtool_torch import PairedLayers, at_least_float32, is_labelled, pair_layers

from kdtool_loss_attention._pairs import Block, by_block

if TYPE_CHECKING:
    from torch import Tensor

_Layers = tuple[Annotated[int, kdtool.Field(ge=0, le=999)], ...]


def relation_divergence(
    student: Tensor, teacher: Tensor, relation_heads: int, document: Tensor, labelled: Tensor
) -> Tensor:
    """Return 1/A Σ_a KL(R^T_at ‖ R^S_at) of each labelled position t, with R_at = softmax_s(x_at · x_as / √d).

    x_a are relation heads: the vectors of all attention heads side by side, cut into A parts of d numbers, so the two models
    may have any number of heads and any width. After Wang et al. (MiniLMv2), arXiv 2012.15828, section 3.1, whose models see
    both ways; of a causal one the relations are to positions s ≤ t, t itself among them, of the same document, so that
    nothing is learned at t from later positions. 0 for equal relations; in nats.

    One block of positions of one row is computed at a time, and again in backward: memory does not grow with A · L².

    Args:
        student: [B, L, W], queries, keys or values; any floating type, computed in float32 or better.
        teacher: [B, L, W of the teacher].
        relation_heads: A, which divides both widths.
        document: [B, L] integers that number each row's documents.
        labelled: [B, L] bool, the positions t that count. Positions that they see count, labelled or not.

    Returns:
        [N], row-major.
    """
    each = partial(_divergence, heads=relation_heads)
    return by_block(each, student, teacher, document, labelled, relation_heads)


class Relations(PairedLayers):
    """KL between self-attention relations: how alike queries are to each other, keys to each other, values to each other.

    The sum of the three, as in MiniLMv2 (arXiv 2012.15828, section 3.1), and the mean over pairs of layers. Queries and keys
    are as attention multiplies them, after rotary positions. Not softened: no temperature.
    """

    divergence = True
    needs = "projections"
    config: Config

    class Config(kdtool.Config):
        """Settings of `relations`."""

        layers: Literal["last"] | _Layers = "last"
        """Student layers to compare, counted from 0. One is enough: the last in the paper."""
        teacher_layers: Literal["auto"] | _Layers = "auto"
        """The teacher's layer for each of `layers`. "auto": the one that it was copied from, else l · L_teacher / L_student.

        The paper takes the last of 12, and the 21st of 24, here number 20."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._relation_heads = 1

    def kdtool_layers(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> tuple[tuple[int, int], ...]:
        """Pair layers by the settings, and find the number of relation heads.

        Raises:
            kdtool.UsageError: the settings name layers that are not there, or heads of these models cannot be compared.
        """
        self._relation_heads = _relation_heads(student, teacher)
        layers = (student.layers - 1,) if self.config.layers == "last" else self.config.layers
        pairs = pair_layers("relations.layers", layers, student, teacher)
        chosen = self.config.teacher_layers
        if chosen == "auto":
            return pairs
        if len(chosen) != len(layers) or max(chosen) >= teacher.layers:
            raise kdtool.UsageError(
                f"relations.teacher_layers is {list(chosen)}, but must name one layer of the teacher, which has layers 0 to "
                f"{teacher.layers - 1}, for each of the student's layers {list(layers)}"
            )
        return tuple(zip(layers, chosen, strict=True))

    def kdtool_modules(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> None:
        """Find the number of relation heads where layers were not paired in this process; nothing trains along."""
        self._relation_heads = _relation_heads(student, teacher)

    def compare(self, view: kdtool.StepView, teacher: kdtool.Signal, student_layer: int, teacher_layer: int) -> Tensor:
        """Return the sum of `relation_divergence` over queries, keys and values of two layers."""
        labelled, document = is_labelled(view.batch), view.batch.document
        student_states, teacher_states = view.student.projections[student_layer], teacher.projections[teacher_layer]
        queries, keys, values = (
            relation_divergence(ours, its, self._relation_heads, document, labelled)
            for ours, its in zip(student_states, teacher_states, strict=True)
        )
        return queries + keys + values


def _relation_heads(student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> int:
    """Return as many as hold whole heads of both models. The paper has more, 48 for a width of 768."""
    return gcd(student.heads, student.kv_heads, teacher.heads, teacher.kv_heads)


def _divergence(student: Tensor, teacher: Tensor, block: Block, *, heads: int) -> Tensor:
    import torch

    with torch.autocast(
        student.device.type, enabled=False
    ):  # a softmax of scores in half precision would blur the gradient
        q, p = (_log_relations(at_least_float32(states), block, heads) for states in (student, teacher))
        return (p.exp() * (p - q).masked_fill(~block.seen, 0)).sum(-1).mean(0)


def _log_relations(states: Tensor, block: Block, heads: int) -> Tensor:
    """Return [heads, Q, keys] of one row's vectors [L, W]; minus infinity where a key is not seen."""
    parts = states.reshape(len(states), heads, -1).transpose(0, 1)
    scores = parts[:, block.queries] @ parts[:, block.first : block.stop].transpose(1, 2) * parts.shape[2] ** -0.5
    relations: Tensor = scores.masked_fill(~block.seen, -float("inf")).log_softmax(-1)
    return relations
