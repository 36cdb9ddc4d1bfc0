"""Tensors in checkpoints, written by any number of ranks and read by any other.

Each rank writes what it holds of the divided tensors, and rank 0 also those that all have, into one safetensors file in the
layout of `torch.distributed.checkpoint` for Hugging Face, whose `HuggingFaceStorageReader` reads the folder. We write the
files ourselves because its writer meets all ranks several times, and so cannot run in a background thread.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from kdtool_torch import give_usual_mode
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, Replicate

__all__ = ["RankState", "load_state", "own_state", "stored_tensors"]


@dataclass(frozen=True)
class RankState:
    """The part of one rank, in main memory: tensors, each with its position in the whole tensor."""

    rank: int
    tensors: Mapping[str, Tensor]
    offsets: Mapping[str, tuple[int, ...]]

    def write(self, folder: Path) -> None:
        """Write the file of this rank into `folder`, which exists; nothing if the rank holds nothing that it writes."""
        if not self.tensors:
            return
        positions = {name: {"saved_offsets": list(offset)} for name, offset in self.offsets.items()}
        file = folder / f"shard-{self.rank + 1:05}-model-00001-of-00001.safetensors"
        save_file(dict(self.tensors), file, metadata={"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(positions)})
        give_usual_mode(file)


def own_state(state: Mapping[str, Tensor], rank: int, *, copy: bool) -> RankState:
    """Return what this rank writes of `state`.

    Args:
        state: the same names on every rank; divided tensors are `DTensor`, all others are equal on all ranks.
        rank: this process; 0 writes the tensors that are not divided.
        copy: so that training can continue while it is written. Without it, what is in main memory is not copied.
    """
    tensors, offsets = {}, {}
    for name, tensor in state.items():
        if not isinstance(tensor, DTensor):
            parts = [(tensor, (0,) * tensor.dim())] if rank == 0 else []
        else:
            parts = list(_own_parts(tensor))
        for part, offset in parts:
            tensors[name] = part.detach().to("cpu", copy=copy).contiguous()
            offsets[name] = offset
    return RankState(rank, tensors, offsets)


def load_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Read the folder's tensors into `state`, in place, however many ranks wrote them.

    Each rank reads what it holds by itself.

    Args:
        folder: what `RankState.write` of all ranks filled.
        state: tensors by name, divided or not, of the shapes that were written; names that the folder has in addition are
            left out.

    Raises:
        KeyError: the folder lacks a name of `state`.
        ValueError: a tensor in the folder has another shape.
    """
    stored = stored_tensors(folder)
    for name, tensor in state.items():
        size, _ = stored[name]
        if size != tensor.shape:
            raise ValueError(f"{name} has the shape {tuple(size)} in {folder}, and {tuple(tensor.shape)} here")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # on purpose: no rank waits for another
        load(dict(state), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def stored_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the whole shapes and dtypes of the tensors that all ranks wrote into a folder, by name."""
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (facts.size, facts.properties.dtype)
        for name, facts in stored.items()
        if isinstance(facts, TensorStorageMetadata)
    }


def _own_parts(tensor: DTensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Yield this rank's part and its position, unless it is empty or another rank has the same part and comes first."""
    mesh = tensor.device_mesh
    copies = zip(mesh.get_coordinate() or (), tensor.placements, strict=True)
    local = tensor.to_local()
    if local.numel() and all(index == 0 for index, placement in copies if isinstance(placement, Replicate)):
        (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
        yield local, tuple(chunk.offsets)
