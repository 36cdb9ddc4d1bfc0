"""Optimizers, which turn the gradients of a phase into changes of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdtool._contract.component import Component
from kdtool._contract.hooks import hook
from kdtool._contract.run_info import RunInfo

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer as TorchOptimizer


class Optimizer(Component):
    """Makes the torch optimizer of a phase. Learning rate, schedule, clipping and checkpoints are the trainer's."""

    kind = "optimizer"
    state_bytes: float = 8.0
    """Bytes of its state for each trained number, for `kdtool check`; AdamW keeps two averages in float32."""
    divisible: bool = True
    """False if it cannot update weights that are divided among processes (`DTensor`s): sharding is then refused."""

    @hook(needed=True)
    def kdtool_optimizer(self, run: RunInfo, parameters: Mapping[str, Tensor], learning_rate: float) -> TorchOptimizer:
        """Return a `torch.optim.Optimizer` of exactly these parameters, in groups as it likes.

        `parameters` are those that learn, by name, on their device; those of the student are named as in its model. A
        group's `lr` is its peak, usually `learning_rate`: the trainer multiplies it by the factor of its schedule at every
        step. The state of a parameter consists of tensors and numbers, by name. A resumed phase calls this again, and loads
        what `state_dict` returned. Called once a phase, on every rank. Since 0.1.
        """
        raise NotImplementedError
