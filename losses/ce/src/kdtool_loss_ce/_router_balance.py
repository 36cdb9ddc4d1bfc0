"""Load balance of the experts of a student: the auxiliary loss with which mixtures of experts are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RouterBalance", "load_balance"]


def load_balance(logits: Tensor, chosen: int, counts: Tensor) -> Tensor:
    """Return E · Σ_e f_e · P_e of one layer: k if its tokens are spread evenly over the experts, up to E if they are not.

    f_e is how often a token passes through expert e, P_e the mean of its probability softmax(z)_e. Fedus et al. (Switch
    Transformer), arXiv 2101.03961, equations 4 to 6, without α and for k experts a token. Gradients flow through P only.

    Args:
        logits: router logits z [T, E], any floating type; computed in float32 or better.
        chosen: k, from 1 to E: a token passes through the k experts of its highest logits.
        counts: [T], True for tokens that count. If none does, the result is 0.

    Returns:
        [], float32 (float64 for float64 logits).
    """
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    weights = counts.to(logits.dtype)[:, None]
    passes = logits.new_zeros(logits.shape).scatter(-1, logits.topk(chosen).indices, 1.0)
    tokens = weights.sum().clamp(min=1)
    frequency, probability = ((weights * each).sum(0) / tokens for each in (passes, logits.softmax(-1)))
    return logits.shape[-1] * (frequency * probability).sum()


class RouterBalance(kdtool.SequenceLoss):
    """Load balance of the student's experts, the mean of its layers: a small addition to losses that teach.

    It is measured in each micro-batch. If all experts are used evenly, its value is k, the number that a token passes
    through.
    """

    routing = True

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerSequence:
        """Return the mean of `load_balance` over the layers with experts, for each of the B rows; padding does not count."""
        routing = view.student.routing
        if routing is None:
            raise kdtool.PluginError(
                "router-balance needs `StepView.student.routing`, which the trainer did not ask for"
            )
        counts = view.batch.document.flatten() >= 0
        layers = [load_balance(each.flatten(0, 1), routing.chosen, counts) for each in routing.logits]
        return kdtool.PerSequence((sum(layers[1:], layers[0]) / len(layers)).expand(len(view.batch.document)))
