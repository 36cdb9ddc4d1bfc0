"""Weights in 4 bits: linear layers become bitsandbytes' `Linear4bit` (nf4, blocks of 64), and plain again.

Called by `_adapters`, for `qlora` alone: this module imports bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import Tensor, nn

__all__ = ["dequantised", "quantise"]


def quantise(model: nn.Module, names: Iterable[str], *, double_quantisation: bool) -> None:
    """Store the weights of the linear layers with these names in 4 bits. They are computed with in the dtype they had."""
    for name in names:
        layer: Any = model.get_submodule(name)
        with torch.device("meta"):
            stored: Any = Linear4bit(  # type: ignore[no-untyped-call]
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                compute_dtype=layer.weight.dtype,
                compress_statistics=double_quantisation,
                quant_type="nf4",
            )
        weight: Any = Params4bit(
            layer.weight.data,
            requires_grad=False,
            compress_statistics=double_quantisation,
            quant_type="nf4",
            module=stored,
        )
        stored.weight, stored.bias = weight.to(layer.weight.device), layer.bias
        # On some CPUs bitsandbytes reorders weights in place when a model is evaluated; they are to stay as they are.
        stored.support_avx512bf16_for_cpu = False
        model.set_submodule(name, stored.train(layer.training))


def dequantised(layer: Any) -> Tensor:
    """Return a layer's weight as it is computed with, in the dtype that it had before."""
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
