"""Divergences between teacher's and student's next-token distributions.

Recipes name the classes: `forward-kl`, `reverse-kl`, `jsd`. The plain functions `forward_kl`, `sampled_forward_kl`,
`top_k_forward_kl`, `reverse_kl` and `jensen_shannon` serve any training loop. Only methods of tensors are used, so
importing this costs nothing. Masking, means, and the factor T² (Hinton et al., arXiv 1503.02531) are the trainer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

from kdtool_loss_divergences._forward import forward_kl, sampled_forward_kl, top_k_forward_kl
from kdtool_loss_divergences._jensen_shannon import jensen_shannon
from kdtool_loss_divergences._reverse import reverse_kl

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ForwardKL",
    "JensenShannon",
    "ReverseKL",
    "forward_kl",
    "jensen_shannon",
    "reverse_kl",
    "sampled_forward_kl",
    "top_k_forward_kl",
]


class _Divergence(kdtool.Loss):
    """What the divergences share: their temperature, and what the engine must know of them."""

    softened = True
    divergence = True
    needs: tuple[frozenset[kdtool.Offer], ...] = (frozenset({"logits"}),)
    config: Config

    class Config(kdtool.Config):
        """Settings of every divergence."""

        temperature: float = kdtool.Field(default=1.0, gt=0, le=100)
        """Softens both distributions: logits are divided by it. Above 1, unlikely tokens count more."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.temperature = config.temperature


class ForwardKL(_Divergence):
    """KL(teacher ‖ student): the student learns to cover all that the teacher finds likely.

    With logits it is exact; with sampled tokens its gradient is unbiased; with top-k tokens it is a lower bound that
    does not see how the remaining probability is spread (below k = 100 expect a student worse than one without teacher).
    """

    needs = (frozenset({"logits"}), frozenset({"sampled"}), frozenset({"top-k"}))

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]; the form follows the signal that is there."""
        teacher = chunk.teacher
        if not isinstance(teacher, kdtool.SparseTokens):
            return forward_kl(chunk.student_logits, _logits(chunk), chunk.temperature)
        if teacher.temperature != chunk.temperature:
            raise kdtool.UsageError(
                f"forward-kl works at temperature {chunk.temperature}, but the teacher's tokens were taken at "
                f"{teacher.temperature}: give the loss and the signals one temperature"
            )
        sparse = sampled_forward_kl if teacher.form == "sampled" else top_k_forward_kl
        return sparse(chunk.student_logits, teacher.ids, teacher.weights, chunk.temperature)


class ReverseKL(_Divergence):
    """KL(student ‖ teacher): the student learns to say only what the teacher finds likely (mode seeking)."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]."""
        return reverse_kl(chunk.student_logits, _logits(chunk), chunk.temperature)


class JensenShannon(_Divergence):
    """Generalised Jensen-Shannon divergence: between covering the teacher (small beta) and seeking its modes (large)."""

    config: Config

    class Config(_Divergence.Config):
        """Settings of `jsd`."""

        beta: float = kdtool.Field(default=0.5, gt=0, lt=1)
        """The teacher's share of the mixture. Near 0 it behaves as forward KL, near 1 as reverse KL, scaled down."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the divergence of each position, [C]."""
        return jensen_shannon(chunk.student_logits, _logits(chunk), chunk.temperature, self.config.beta)


def _logits(chunk: kdtool.TokenChunk) -> Tensor:
    if isinstance(chunk.teacher, kdtool.DenseTokens):
        return chunk.teacher.logits
    raise kdtool.PluginError(
        f"a divergence needs the teacher's logits, the trainer gave {type(chunk.teacher).__name__}"
    )
