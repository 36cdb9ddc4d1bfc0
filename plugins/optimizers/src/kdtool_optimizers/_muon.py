"""The optimizer `muon`."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import kdtool
from kdtool import Field

from kdtool_optimizers._groups import Betas, GroupedConfig, group_parameters, refuse_unmatched

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer as TorchOptimizer

__all__ = ["Muon"]


class Muon(kdtool.Optimizer):
    """Muon for the matrices of the layers (Jordan et al. 2024), AdamW for embeddings, head, norms and biases.

    Updates of matrices are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that a learning rate suits
    both.
    """

    class Config(GroupedConfig):
        """Momentum, weight decay, groups, and the parameters that AdamW trains."""

        momentum: float = Field(default=0.95, ge=0, lt=1)
        """Averaging coefficient of Muon's gradients, with Nesterov's correction."""
        betas: Betas = (0.9, 0.95)
        """Averaging coefficients of AdamW."""
        adamw: tuple[str, ...] = ("*embed*", "*lm_head*", "*wte*", "*wpe*")
        """Patterns of names of matrices that AdamW trains: embeddings and heads, whose rows are tokens."""

    config: Config
    divisible = False
    """An update is computed from the whole matrix; parts that are summed in bfloat16 would give another."""

    def kdtool_optimizer(
        self, run: kdtool.RunInfo, parameters: Mapping[str, Tensor], learning_rate: float
    ) -> TorchOptimizer:
        import torch

        from kdtool_optimizers._joined import JoinedOptimizer

        config = self.config
        refuse_unmatched(parameters, config)
        matrices = {name: weight for name, weight in parameters.items() if self._is_matrix(name, weight)}
        rest = {name: weight for name, weight in parameters.items() if name not in matrices}
        parts: list[TorchOptimizer] = []
        if matrices:
            groups = group_parameters(matrices, config, learning_rate)
            parts.append(torch.optim.Muon(groups, momentum=config.momentum, adjust_lr_fn="match_rms_adamw"))
        if rest:
            groups = group_parameters(rest, config, learning_rate)
            parts.append(torch.optim.AdamW(groups, betas=config.betas, fused=True))
        return JoinedOptimizer(parts)

    def _is_matrix(self, name: str, weight: Tensor) -> bool:
        return weight.ndim == 2 and not any(fnmatchcase(name, pattern) for pattern in self.config.adamw)
