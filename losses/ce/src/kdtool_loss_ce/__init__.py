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


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Return (1 − ε)·(−log q_y) + ε·mean_v(−log q_v) + ζ·(log Σ_v exp z_v)², per position, with q = softmax(z).

    With ε = ζ = 0 this is the negative log-likelihood of the label. It is at least 0 and reaches 0 only for certainty.
    Label smoothing: Szegedy et al., arXiv 1512.00567, section 7, uniform over all V tokens as there. z-loss: Chowdhery et
    al. (PaLM), arXiv 2204.02311, section 5.

    Args:
        logits: [C, V], any floating type; computed in float32 or better.
        labels: [C] int64, each in 0 … V − 1.
        label_smoothing: ε, from 0 up to but not including 1.
        z_loss: ζ, at least 0; PaLM used 1e-4.

    Returns:
        [C], float32 (float64 for float64 logits).
    """
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    normaliser = logits.logsumexp(-1)
    loss = normaliser - logits.gather(-1, labels[:, None])[:, 0]
    if label_smoothing:
        loss = (1 - label_smoothing) * loss + label_smoothing * (normaliser - logits.mean(-1))
    if z_loss:
        loss = loss + z_loss * normaliser.square()
    return loss


def cross_entropy_gradient(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return `cross_entropy`, [C], and each value's gradient by its own row of logits, [C, V].

    With n = log Σ_v exp z_v the gradient is (1 + 2·ζ·n)·q − (1 − ε)·1_y − ε/V. One softmax and no logarithms: log q_y is
    z_y − n, and n follows from the largest logit and the largest probability. Arguments as in `cross_entropy`; float32
    (float64 for float64 logits).
    """
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    labels, gradient = labels[:, None], logits.softmax(-1)
    top, top_log = logits.amax(-1, keepdim=True), gradient.amax(-1, keepdim=True).log()
    values = top - logits.gather(-1, labels) - top_log
    if label_smoothing:
        values = (1 - label_smoothing) * values + label_smoothing * (top - logits.mean(-1, keepdim=True) - top_log)
    if z_loss:
        values = values + z_loss * (top - top_log).square()
        gradient *= 1 + 2 * z_loss * (top - top_log)
    if label_smoothing:
        gradient -= label_smoothing / logits.shape[-1]
    gradient.scatter_add_(-1, labels, top.new_full(labels.shape, label_smoothing - 1))
    return values[:, 0], gradient


class CrossEntropy(kdtool.TokenLoss):
    """Cross-entropy of the student with the text's own next token: learning without a teacher.

    Not softened, so the trainer multiplies by its weight only.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `ce`."""

        label_smoothing: float = kdtool.Field(default=0.0, ge=0, lt=1)
        """Share of the target spread evenly over all tokens; 0 gives plain cross-entropy."""
        z_loss: float = kdtool.Field(default=0.0, ge=0, le=1)
        """Weight of the squared log-normaliser, which keeps logits from drifting; 0 leaves it out, 1e-4 is usual."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return `cross_entropy` of the chunk, [C]."""
        return cross_entropy(chunk.student_logits, chunk.labels, self.config.label_smoothing, self.config.z_loss)

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        """Return `cross_entropy_gradient` of the chunk."""
        return cross_entropy_gradient(
            chunk.student_logits, chunk.labels, self.config.label_smoothing, self.config.z_loss
        )


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
