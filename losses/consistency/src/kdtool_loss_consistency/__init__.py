"""Distance between two passes of the student over the same rows, each with its own dropout (R-Drop).

`Consistency` is the loss that recipes call `consistency`; `consistency` is the same as a plain function for any training
loop. Only methods of tensors are used, so importing this costs nothing. The second pass, masking, means, and the factor T²
(Hinton et al., arXiv 1503.02531) are the trainer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Consistency", "consistency"]


def consistency(first_logits: Tensor, second_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ½·(KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁)), p₁ and p₂ the softmax of the two passes at temperature T.

    At least 0, and 0 if and only if p₁ = p₂; symmetric, and blind to a constant added to either pass. Gradients flow to
    both passes; where the two agree they are 0. Liang et al. (R-Drop), arXiv 2106.14448, section 2.1 (L_KL), there at T = 1
    and between whole passes of one model. Not multiplied by T²: the trainer does that.

    Args:
        first_logits: [C, V], any floating type; computed in float32 or better. Finite.
        second_logits: [C, V], the same tokens in the same order. Finite.
        temperature: T > 0, for both.

    Returns:
        [C], in nats, float32 (float64 for float64 logits).
    """
    p_log, q_log = (_log_probabilities(logits, temperature) for logits in (first_logits, second_logits))
    # The sum of both KLs is Σ (p − q)·(log p − log q), in which no term is negative: nothing cancels near equality.
    return ((p_log.exp() - q_log.exp()) * (p_log - q_log)).sum(-1) / 2


class Consistency(kdtool.TokenLoss):
    """Symmetric KL between two dropout passes of the student: it learns to predict the same with any units dropped (R-Drop).

    Needs no teacher, but a student with dropout, and costs a second forward and backward pass.
    """

    temperature_power = 2
    divergence = True
    forward_passes = 2
    config: Config

    class Config(kdtool.Config):
        """Settings of `consistency`."""

        temperature: float = kdtool.Field(default=1.0, gt=0, le=100)
        """Softens both distributions: logits are divided by it. Above 1, unlikely tokens count more."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.temperature = config.temperature

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the distance of each position, [C].

        Raises:
            kdtool.PluginError: the trainer gave one pass.
        """
        if chunk.second_logits is None:
            raise kdtool.PluginError(
                "consistency compares two passes of the student, but got one: it must run the student "
                "`forward_passes` times, the term's attribute, or refuse the phase"
            )
        return consistency(chunk.student_logits, chunk.second_logits, chunk.temperature)


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    return (logits / temperature).log_softmax(-1)
