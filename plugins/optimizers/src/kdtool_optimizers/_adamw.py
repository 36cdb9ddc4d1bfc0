"""The optimizers `adamw` and `adamw-8bit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import kdtool

from kdtool_optimizers._groups import Betas, GroupedConfig, group_parameters, refuse_unmatched

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer as TorchOptimizer

__all__ = ["AdamW", "AdamW8Bit"]


class AdamW(kdtool.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), fused, with settings by groups of parameters."""

    class Config(GroupedConfig):
        """Averaging, weight decay and groups."""

        betas: Betas = (0.9, 0.95)
        """Averaging coefficients of the gradient and of its square."""

    config: Config

    def kdtool_optimizer(
        self, run: kdtool.RunInfo, parameters: Mapping[str, Tensor], learning_rate: float
    ) -> TorchOptimizer:
        import torch

        refuse_unmatched(parameters, self.config)
        groups = group_parameters(parameters, self.config, learning_rate)
        return torch.optim.AdamW(groups, betas=self.config.betas, fused=True)


class AdamW8Bit(AdamW):
    """AdamW whose averages are kept in 8 bits, by bitsandbytes (Dettmers et al. 2022, arXiv 2110.02861)."""

    state_bytes = 2 * (1 + 4 / 256)
    """Two averages of a byte, and a float32 for each block of 256."""
    divisible = False

    def kdtool_check(self, run: kdtool.RunInfo, when: Literal["start", "text", "student"]) -> Sequence[str]:
        if find_spec("bitsandbytes") is None:
            return ["needs bitsandbytes, which is not installed: pip install bitsandbytes; or use adamw"]
        return []

    def kdtool_optimizer(
        self, run: kdtool.RunInfo, parameters: Mapping[str, Tensor], learning_rate: float
    ) -> TorchOptimizer:
        from kdtool_optimizers._eight_bit import EightBitAdamW

        refuse_unmatched(parameters, self.config)
        groups = group_parameters(parameters, self.config, learning_rate)
        return EightBitAdamW(groups, self.config.betas)
