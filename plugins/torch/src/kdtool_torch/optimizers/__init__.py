"""The optimizers `adamw-8bit` and `muon`, and the AdamW of trainers without a named one.

`adamw-8bit` is AdamW of bitsandbytes; `muon` is Muon for the matrices of the layers and AdamW for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool import Field

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer as TorchOptimizer


__all__ = ["AdamW", "AdamW8Bit", "Muon"]
BETAS = (0.9, 0.95)
"""AdamW's averaging coefficients of the gradient and of its square."""
_MOMENTUM = 0.95
_OF_TOKENS = ("*embed*", "*lm_head*", "*wte*", "*wpe*")
"""Names of matrices whose rows are tokens or positions: embeddings and heads."""


class OptimizerConfig(kdtool.Config):
    """The weight decay."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay, multiplied by the learning rate; norms and biases are left out."""


def group_parameters(parameters: Mapping[str, Tensor], learning_rate: float, decay: float) -> list[dict[str, Any]]:
    """Return the parameters in groups as `torch.optim` takes them: those with one dimension, as norms, do not decay."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    others = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "lr": learning_rate, "weight_decay": decay},
        {"params": others, "lr": learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class AdamW(kdtool.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), fused."""

    class Config(OptimizerConfig):
        """The weight decay."""

    config: Config

    def kdtool_optimizer(
        self, run: kdtool.RunInfo, parameters: Mapping[str, Tensor], learning_rate: float
    ) -> TorchOptimizer:
        return self._make(group_parameters(parameters, learning_rate, self.config.weight_decay))

    def _make(self, groups: list[dict[str, Any]]) -> TorchOptimizer:
        import torch

        return torch.optim.AdamW(groups, betas=BETAS, fused=True)


class AdamW8Bit(AdamW):
    """AdamW whose averages are kept in 8 bits, by bitsandbytes (Dettmers et al. 2022, arXiv 2110.02861)."""

    extra = "adamw-8bit"
    state_bytes = 2 * (1 + 4 / 256)
    """Two averages of a byte, and a float32 for each block of 256."""
    divisible = False

    def _make(self, groups: list[dict[str, Any]]) -> TorchOptimizer:
        from kdtool_torch.optimizers.eight_bit import EightBitAdamW

        return EightBitAdamW(groups, BETAS)


class Muon(kdtool.Optimizer):
    """Muon for the matrices of the layers (Jordan et al. 2024), AdamW for embeddings, head, norms and biases.

    Updates of matrices are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that a learning rate suits
    both.
    """

    class Config(OptimizerConfig):
        """The weight decay."""

    config: Config
    divisible = False
    """An update is computed from the whole matrix; parts that are summed in bfloat16 would give another."""

    def kdtool_optimizer(
        self, run: kdtool.RunInfo, parameters: Mapping[str, Tensor], learning_rate: float
    ) -> TorchOptimizer:
        import torch

        from kdtool_torch.optimizers.joined import JoinedOptimizer

        decay = self.config.weight_decay
        matrices = {name: weight for name, weight in parameters.items() if _is_of_a_layer(name, weight)}
        rest = {name: weight for name, weight in parameters.items() if name not in matrices}
        parts: list[TorchOptimizer] = []
        if matrices:
            groups = group_parameters(matrices, learning_rate, decay)
            parts.append(torch.optim.Muon(groups, momentum=_MOMENTUM, adjust_lr_fn="match_rms_adamw"))
        if rest:
            groups = group_parameters(rest, learning_rate, decay)
            parts.append(torch.optim.AdamW(groups, betas=BETAS, fused=True))
        return JoinedOptimizer(parts)


def _is_of_a_layer(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and not any(fnmatchcase(name, pattern) for pattern in _OF_TOKENS)
