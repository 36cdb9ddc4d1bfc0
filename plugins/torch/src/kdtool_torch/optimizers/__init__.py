"""The optimizers `adamw`, `adamw-8bit` and `muon`, all with settings by groups of parameters.

`adamw-8bit` is AdamW of bitsandbytes; `muon` is Muon for the matrices of the layers and AdamW for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import kdtool
from kdtool import Field

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer as TorchOptimizer


__all__ = ["AdamW", "AdamW8Bit", "Group", "Muon"]
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


class Group(kdtool.Config):
    """Parameters whose names match a pattern, and their settings."""

    match: str = Field(min_length=1)
    """Pattern of names such as `model.layers.0.mlp.up_proj.weight`; `*` matches any characters."""
    learning_rate: float = Field(default=1.0, ge=0, le=1000)
    """Multiple of the trainer's learning rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of these parameters; by default the optimizer's, and 0 for norms and biases."""


class GroupedConfig(kdtool.Config):
    """Weight decay, and settings by groups of parameters."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay, multiplied by the learning rate; norms and biases are left out."""
    groups: tuple[Group, ...] = ()
    """Parameters with other settings. The first group whose pattern matches a name counts."""


def refuse_unmatched(parameters: Mapping[str, Tensor], config: GroupedConfig) -> None:
    """Refuse a group whose pattern matches no parameter.

    Raises:
        UsageError: there is such a group.
    """
    for group in config.groups:
        if not any(fnmatchcase(name, group.match) for name in parameters):
            raise kdtool.UsageError(
                f"groups: {group.match!r} matches none of the {len(parameters)} trained parameters; expected a pattern of "
                f"names such as {next(iter(parameters), '')!r}; correct it, or leave the group out"
            )


def group_parameters(
    parameters: Mapping[str, Tensor], config: GroupedConfig, learning_rate: float
) -> list[dict[str, Any]]:
    """Return the parameters in groups as `torch.optim` takes them, each with its `lr` and `weight_decay`.

    Parameters with one dimension, such as norms and biases, have no weight decay unless their group sets it.
    """
    grouped: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in parameters.items():
        group = next((group for group in config.groups if fnmatchcase(name, group.match)), Group(match="*"))
        default = config.weight_decay if parameter.ndim > 1 else 0.0
        decay = default if group.weight_decay is None else group.weight_decay
        grouped.setdefault((group.learning_rate * learning_rate, decay), []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in grouped.items()]


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
        refuse_unmatched(parameters, self.config)
        return self._make(group_parameters(parameters, self.config, learning_rate))

    def _make(self, groups: list[dict[str, Any]]) -> TorchOptimizer:
        import torch

        return torch.optim.AdamW(groups, betas=self.config.betas, fused=True)


class AdamW8Bit(AdamW):
    """AdamW whose averages are kept in 8 bits, by bitsandbytes (Dettmers et al. 2022, arXiv 2110.02861)."""

    extra = "adamw-8bit"
    state_bytes = 2 * (1 + 4 / 256)
    """Two averages of a byte, and a float32 for each block of 256."""
    divisible = False

    def _make(self, groups: list[dict[str, Any]]) -> TorchOptimizer:
        from kdtool_torch.optimizers.eight_bit import EightBitAdamW

        return EightBitAdamW(groups, self.config.betas)


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

        from kdtool_torch.optimizers.joined import JoinedOptimizer

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
