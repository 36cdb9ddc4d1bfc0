"""A module whose weights, gradients and moments are divided among the ranks (FSDP2), and whole again afterwards.

Each decoder layer is a separate group, gathered while it runs; the module is the root, whose group holds the rest: the
embedding, the head, and what losses train along. So the chunked head always finds whole weights.
Called by `_train` and `_resumable`. We call `fully_shard` ourselves: accelerate leaves it out on the CPU without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kdtool
import torch
from kdtool_transformers import layers_among
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from kdtool_trainer_standard._module import DistillationModule

__all__ = ["Sharding", "divided_like", "divided_moments", "share_of_rank", "whole", "whole_moments"]


class Sharding:
    """Divides a module, which is whole on this rank's device, among all ranks.

    Raises:
        UsageError: the student's layers cannot be found, or some of its weights cannot be divided.
    """

    def __init__(self, module: DistillationModule, device: torch.device) -> None:
        layers = _layers(module)
        self._module = module
        self._before = [_Before.of(part) for part in module.modules()]
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        self._added = [frozenset(vars(before.part)) - before.names for before in self._before]
        left = [name for name, weight in module.named_parameters() if not isinstance(weight, DTensor)]
        if left:
            raise kdtool.PluginError(
                f"FSDP2 did not shard {', '.join(left[:3])}, which sharding: full requires; set sharding: off"
            )

    def undo(self) -> None:
        """Make the module an ordinary one again, in place and on every rank: whole weights in main memory, no hooks."""
        parts = [before.part for before in self._before]
        for part in parts:
            if isinstance(part, FSDPModule):
                part.reshard()
        new_weights: dict[nn.Parameter, nn.Parameter] = {}
        for part in parts:
            for name, weight in list(part.named_parameters(recurse=False)):
                if weight not in new_weights:  # a tied weight is gathered once, and stays tied
                    new_weights[weight] = nn.Parameter(whole(weight.detach()), weight.requires_grad)
                setattr(part, name, new_weights[weight])
        for before, added in zip(self._before, self._added, strict=True):
            before.restore(added)
        self._module.cpu()  # buffers too


@dataclass(frozen=True, eq=False)
class _Before:
    """The state of a module before `fully_shard` changed its class, hooks and state, which PyTorch cannot undo."""

    part: nn.Module
    kind: type[nn.Module]
    names: frozenset[str]
    hooks: Mapping[str, Mapping[int, Any]]

    @classmethod
    def of(cls, part: nn.Module) -> _Before:
        hooks = {
            name: dict(value) for name, value in vars(part).items() if "_hooks" in name and isinstance(value, dict)
        }
        return cls(part, type(part), frozenset(vars(part)), hooks)

    def restore(self, added: frozenset[str]) -> None:
        self.part.__class__ = self.kind
        for name in added:
            delattr(self.part, name)
        for name, hooks in self.hooks.items():
            now = vars(self.part)[name]
            now.clear()
            now.update(hooks)


def whole(tensor: Tensor, *, keep: bool = True) -> Tensor:
    """Return a divided tensor gathered in main memory, any other as it is. Call it on every rank; empty unless `keep`."""
    if not isinstance(tensor, DTensor):
        return tensor
    gathered = tensor.full_tensor()
    return gathered.cpu() if keep else torch.empty(0)


def share_of_rank(tensor: Tensor) -> Tensor:
    """Return what this rank holds of a divided tensor; another one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, divided as `like` is; the tensor itself if that is not divided."""
    if not isinstance(like, DTensor):
        return tensor
    # Every rank has read the whole: none needs to send it.
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_moments(state: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """Return an optimiser's state with its tensors gathered, on every rank; `keep` as in `whole`."""
    moments = {
        number: {name: whole(value, keep=keep) for name, value in of_weight.items()}
        for number, of_weight in state["state"].items()
    }
    return {**state, "state": moments}


def divided_moments(state: Mapping[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the result of `whole_moments`, divided as the optimiser's weights are."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    moments = {
        number: {
            name: divided_like(value, weights[number]) if value.shape == weights[number].shape else value
            for name, value in of_weight.items()
        }
        for number, of_weight in state["state"].items()
    }
    return {**state, "state": moments}


def _layers(module: DistillationModule) -> nn.ModuleList:
    packed = [name for name, weight in module.named_parameters() if not weight.is_floating_point()]
    if packed:
        raise kdtool.UsageError(
            f"sharding: full cannot divide {packed[0]}, whose numbers hold several weights each; take the student without "
            "quantised weights, or sharding: off"
        )
    count = module.language_model.facts.layers
    layers: nn.ModuleList | None = layers_among(module.student, count)
    if layers is None:
        raise kdtool.UsageError(
            f"sharding: full gathers the student layer by layer, but {type(module.student).__name__} has no list of its "
            f"{count} layers; take sharding: off"
        )
    return layers
