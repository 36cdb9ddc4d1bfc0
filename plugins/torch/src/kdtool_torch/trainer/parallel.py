"""Processes that train together: their group, and weights divided among them (FSDP2).

With sharding, weights, gradients and moments are divided among the ranks, and whole again afterwards. Each decoder
layer is a separate group, gathered while it runs in the dtype of products; the module is the root, whose group holds
the rest in float32: the embedding, the head, and what losses train along. So the chunked head always finds whole
weights. Gradients are averaged in float32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import kdtool
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from kdtool_torch.model import layers_among

if TYPE_CHECKING:
    from kdtool_torch.objective import Objective

PATIENCE = timedelta(days=1)
"""Time that ranks wait for rank 0, which may ask for and run thousands of programs while it validates."""


def join_group(run: kdtool.RunInfo, device: torch.device) -> None:
    """Join the process group that the launcher's environment describes; a single process needs none.

    Raises:
        UsageError: the group has another number of processes than the run.
    """
    if run.world == 1:
        return
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    if dist.get_world_size() != run.world:
        raise kdtool.UsageError(
            f"{run.world} processes were expected, but torch.distributed has {dist.get_world_size()}; start them by torchrun"
        )


def refuse_other_dtypes(run: kdtool.RunInfo, dtype: str) -> None:
    """Refuse processes whose products have other dtypes, which `dtype: auto` may choose on unequal machines.

    Raises:
        UsageError: on every rank.
    """
    if run.world == 1:
        return
    dtypes: list[str] = [dtype] * run.world
    dist.all_gather_object(dtypes, dtype)
    if len({*dtypes}) > 1:
        raise kdtool.UsageError(
            f"the processes would compute in {', '.join(dtypes)}, which `dtype: auto` chooses on their machines; set the "
            "trainer's dtype to one of these"
        )


class Sharding:
    """Divides a module, which is whole on this rank's device, among ranks.

    Args:
        setting: `full` divides among all ranks; `hybrid` among those of a machine, each machine with a copy.

    Raises:
        UsageError: the student's layers cannot be found, or some of its weights cannot be divided.
    """

    def __init__(self, module: Objective, device: torch.device, setting: str) -> None:
        layers = _layers(module)
        self._module = module
        self._before = [_Before.of(part) for part in module.modules()]
        mesh, dtype = _mesh(device, setting), module.sizes.dtype
        narrow = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=narrow)
        fully_shard(module, mesh=mesh)
        for name in ("of_work", "of_term"):  # they gather weights as `forward` does
            register_fsdp_forward_method(module, name)
        self._added = [frozenset(vars(before.part)) - before.names for before in self._before]

    def reshard(self) -> None:
        """Divide weights again that a pass without backward gathered."""
        for before in self._before:
            if isinstance(before.part, FSDPModule):
                before.part.reshard()

    def undo(self) -> None:
        """Make the module an ordinary one again, in place and on every rank: whole weights in main memory, no hooks."""
        self.reshard()
        parts = [before.part for before in self._before]
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


def whole(tensor: Tensor) -> Tensor:
    """Return a divided tensor gathered in main memory, any other as it is. Call it on every rank."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def _mesh(device: torch.device, setting: str) -> DeviceMesh:
    world = torch.distributed.get_world_size()
    if setting == "full":
        return init_device_mesh(device.type, (world,))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if world % local:
        raise kdtool.UsageError(
            f"sharding: hybrid needs as many processes on each machine, but {world} are not a multiple of the {local} here; "
            "start as many on each, or set sharding: full"
        )
    return init_device_mesh(device.type, (world // local, local), mesh_dim_names=("machine", "process"))


def _layers(module: Objective) -> nn.ModuleList:
    packed = [name for name, weight in module.named_parameters() if not weight.is_floating_point()]
    if packed:
        raise kdtool.UsageError(
            f"sharding cannot divide {packed[0]}, whose numbers hold several weights each; take the student without "
            "quantised weights, or sharding: off"
        )
    count = module.language_model.facts.layers
    layers = layers_among(module.student, count)
    if layers is None:
        raise kdtool.UsageError(
            f"sharding gathers the student layer by layer, but {type(module.student).__name__} has no list of its "
            f"{count} layers; take sharding: off"
        )
    return layers
