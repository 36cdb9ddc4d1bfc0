"""Weights in 4 bits: linear layers become bitsandbytes' `Linear4bit` (nf4, blocks of 64), and plain again.

Imported only for `qlora`, because this module imports bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

import torch
from bitsandbytes.autograd._functions import matmul_4bit
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from kdtool_torch import give_back_memory, release_mapping
from torch import Tensor, nn


class _Nf4Linear(Linear4bit):
    """A linear layer of 4 bits that computes in the dtype of autocast, else in that of its inputs.

    bitsandbytes' own takes the dtype of its inputs, float32 under autocast, and casts biases for good. On some CPUs it also
    reorders weights in place when a model is evaluated.
    """

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        weight: Any = self.weight
        weight.quant_state.dtype = dtype  # in which backward dequantises
        bias = None if self.bias is None else self.bias.to(dtype)
        product: Tensor = matmul_4bit(x.to(dtype), weight, bias=bias, quant_state=weight.quant_state)
        return product


def quantise(model: nn.Module, names: Iterable[str]) -> None:
    """Store the weights of the linear layers with these names in 4 bits, one layer after the other."""
    for name in names:
        layer: Any = model.get_submodule(name)
        with torch.device("meta"):
            stored: Any = _Nf4Linear(  # type: ignore[no-untyped-call]
                layer.in_features, layer.out_features, bias=layer.bias is not None, quant_type="nf4"
            )
        weight: Any = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=stored)
        stored.weight, stored.bias = weight.to(layer.weight.device), layer.bias
        model.set_submodule(name, stored.train(layer.training))
        if all(parameter is not layer.weight for parameter in model.parameters()):  # another layer may have it, too
            release_mapping(layer.weight)
        del layer, weight
        give_back_memory()
    for parameter in model.parameters():
        if not isinstance(parameter, Params4bit):  # else what is left keeps the file of all of them in memory
            parameter.data = parameter.data.clone()


def dequantise(layer: Any) -> Tensor:
    """Return a layer's weight in float32."""
    state = copy(layer.weight.quant_state)
    state.dtype = torch.float32
    return dequantize_4bit(layer.weight.data, state)
