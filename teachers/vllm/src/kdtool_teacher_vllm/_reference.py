"""The model's own states, computed by transformers on the CPU; its layers are freed afterwards.

Results are kept in the user's cache, so a model is opened once per set of rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256

import kdtool
import torch
from kdtool_torch import cache_folder, complete_folder
from kdtool_transformers import Source, open_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdtool_teacher_vllm._gate import Reference

_FILE = "reference.safetensors"


def reference_states(
    source: Source, identity: str, dtype: str, rows: Sequence[Sequence[int]], layers: Sequence[int]
) -> Reference:
    """Return the model's states of rows.

    Args:
        source: its folder, or its Hub name if all its files are on this machine.
        identity: names the content of its weights.
        dtype: the precision to compute in.
        rows: of token ids.
        layers: the layers whose outputs are kept, too.

    Raises:
        UsageError: the weights cannot be read.
    """
    content = json.dumps([identity, dtype, [*map(list, rows)], sorted(layers)])
    target = cache_folder().parent / "references" / sha256(content.encode()).hexdigest()[:32]
    with complete_folder(target) as partial:
        if partial is not None:
            save_file(_compute(source, dtype, rows, layers), partial / _FILE)
    tensors = load_file(target / _FILE)
    numbers = range(len(rows))
    return Reference(
        final=[tensors[f"final.{row}"] for row in numbers],
        outputs={layer: [tensors[f"layer.{layer}.{row}"] for row in numbers] for layer in layers},
    )


def _compute(source: Source, dtype: str, rows: Sequence[Sequence[int]], layers: Sequence[int]) -> dict[str, Tensor]:
    try:
        model = open_model(source.place, dtype=getattr(torch, dtype), revision=source.revision, offline=True)
    except kdtool.KdtoolError as error:
        raise kdtool.UsageError(
            f"model: the weights of {source.place} cannot be opened for comparison ({error}); set `reference: server`"
        ) from error
    want = kdtool.SignalRequest(frozenset({"hidden"}), layers=tuple(layers))
    tensors = {}
    for number, row in enumerate(rows):
        ids = torch.tensor([row])
        zeros = torch.zeros_like(ids)
        batch = kdtool.Batch(ids, torch.arange(len(row))[None], zeros, zeros.int(), (str(number),))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            outputs = model.backbone(batch, want)
        tensors[f"final.{number}"] = outputs.last.contiguous()
        tensors |= {f"layer.{layer}.{number}": states.contiguous() for layer, states in outputs.hidden.items()}
    return tensors
