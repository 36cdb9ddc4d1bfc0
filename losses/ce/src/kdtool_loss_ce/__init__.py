"""Losses that need no teacher: cross-entropy with the text's own next token, and the load balance of experts.

`CrossEntropy` is the loss that recipes call `ce`; `cross_entropy` is the same as a plain function for any training loop,
`cross_entropy_gradient` its value and gradient without autograd. `RouterBalance` is `router-balance`, the auxiliary loss
with which mixtures of experts are trained; `load_balance` is its function of one layer. Only methods of tensors are used, so
importing this costs nothing. The trainer masks and takes means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["CrossEntropy", "RouterBalance", "cross_entropy", "cross_entropy_gradient", "load_balance"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log q_y per position, with q = softmax(z): at least 0, and 0 only for certainty.

    Args:
        logits: [C, V], any floating type; computed in float32 or better.
        labels: [C] int64, each in 0 … V − 1.

    Returns:
        [C], float32 (float64 for float64 logits).
    """
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    return logits.logsumexp(-1) - logits.gather(-1, labels[:, None])[:, 0]


def cross_entropy_gradient(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return `cross_entropy`, [C], and each value's gradient by its own row of logits, q − 1_y, [C, V].

    One softmax and no logarithms: log q_y is z_y − n, and n = log Σ_v exp z_v follows from the largest logit and the
    largest probability. Arguments as in `cross_entropy`; float32 (float64 for float64 logits).
    """
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    labels, gradient = labels[:, None], logits.softmax(-1)
    values = logits.amax(-1, keepdim=True) - logits.gather(-1, labels) - gradient.amax(-1, keepdim=True).log()
    gradient.scatter_add_(-1, labels, gradient.new_full(labels.shape, -1))
    return values[:, 0], gradient


class CrossEntropy(kdtool.TokenLoss):
    """Cross-entropy of the student with the text's own next token: learning without a teacher.

    Not softened, so the trainer multiplies by its weight only.
    """

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return `cross_entropy` of the chunk, [C]."""
        return cross_entropy(chunk.student_logits, chunk.labels)

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        """Return `cross_entropy_gradient` of the chunk."""
        return cross_entropy_gradient(chunk.student_logits, chunk.labels)


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
