"""Rounding of a model's linear layers to the grid of a scheme, by the library `compressed-tensors`.

Embeddings and the head keep their bits: in most small models they are one tensor, which a consumer would tie again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import kdtool
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.base import compress_module
from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
from compressed_tensors.quantization.utils import calculate_qparams
from torch import nn

SchemeName = Literal["w8a8", "w8a16", "w4a16"]
GROUPS = (128, 64, 32)
"""Weights of a row that share a scale in `w8a16` and `w4a16`, the preferred number first."""


def split_layers(causal: Any, scheme: SchemeName) -> tuple[dict[str, nn.Linear], int, list[str]]:
    """Return the layers to quantise by name, the group size (0 for whole rows), and the names of layers left out.

    All layers share one group size, the largest of `GROUPS` that divides their input widths: transformers and vLLM read
    folders with one scheme best. The model may lie on the meta device.

    Raises:
        UsageError: no layer can be quantised.
    """
    head = causal.get_output_embeddings()
    linear = {
        name: layer for name, layer in causal.named_modules() if isinstance(layer, nn.Linear) and layer is not head
    }
    if not linear:
        raise kdtool.UsageError(
            f"exporters.compressed-tensors: a student with nn.Linear layers was expected, but {type(causal).__name__} has "
            "none except its head; export it with safetensors"
        )
    if scheme == "w8a8":
        return linear, 0, []
    chosen = {name: layer for name, layer in linear.items() if layer.in_features % GROUPS[-1] == 0}
    if not chosen:
        raise kdtool.UsageError(
            f"exporters.compressed-tensors.scheme: {scheme} needs layers with an input width that is a multiple of "
            f"{GROUPS[-1]}, but {type(causal).__name__} has none; take scheme: w8a8"
        )
    group = next(group for group in GROUPS if all(layer.in_features % group == 0 for layer in chosen.values()))
    return chosen, group, [name for name in linear if name not in chosen]


def quantise(causal: Any, layers: dict[str, nn.Linear], scheme: SchemeName, group: int, dtype: torch.dtype) -> None:
    """Have `layers` compute with rounded weights, and with rounded inputs in `w8a8`; their own weights stay.

    Scales and all other parameters get values of `dtype`, in which they are stored, but keep their own dtype: the model
    computes as an exact consumer of the folder does.
    """
    grid = _scheme(scheme, group)
    quantised = {id(layer.weight) for layer in layers.values()}
    with torch.no_grad():
        for parameter in causal.parameters():
            if id(parameter) not in quantised:
                parameter.copy_(parameter.to(dtype))
        for layer in layers.values():
            initialize_module_for_quantization(layer, grid, force_zero_point=False)
            groups = layer.weight.reshape(layer.out_features, -1, group or layer.in_features)
            scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), grid.weights)
            layer.get_parameter("weight_scale").copy_(scale.to(dtype))


def write(model: Any, layers: dict[str, nn.Linear], dtype: torch.dtype, folder: Path) -> None:
    """Store the integers of a model that `quantise` prepared, with everything else in `dtype`."""
    for layer in layers.values():
        compress_module(layer)
    compressor = ModelCompressor.from_pretrained_model(model.model)
    model.model.to(dtype)
    model.save(folder)
    compressor.update_config(str(folder))


def _scheme(name: SchemeName, group: int) -> QuantizationScheme:
    scheme = preset_name_to_scheme(name.upper(), ["Linear"])
    if group:
        scheme.weights.group_size = group
    return scheme
