"""Weights of linear layers in 4 or 8 bits, by bitsandbytes: how to load them, and what they take.

`_open.open_model` loads by `loading`; `held_bytes` counts the bytes of weights, from a model on the meta device. Embeddings,
norms and the head stay in the dtype of the computation. Light: torch and transformers load when something is asked for.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import kdtool

if TYPE_CHECKING:
    import torch

__all__ = ["Quantisation", "held_bytes", "loading", "require_bitsandbytes"]

Quantisation = Literal["nf4", "int8"]

_BITS_A_WEIGHT = {"nf4": 4 + (8 + 32 / 256) / 64, "int8": 8}
"""With their scales: nf4 has one of 8 bits for 64 weights, and one of 32 bits for 256 of those. int8 has one a row."""


def require_bitsandbytes(quantisation: Quantisation) -> None:
    """Refuse where bitsandbytes is not installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("bitsandbytes") is None:
        raise kdtool.UsageError(
            f"quantise: {quantisation} needs bitsandbytes, which is not installed: "
            "pip install bitsandbytes; or leave quantise out"
        )


def loading(quantisation: Quantisation, dtype: torch.dtype) -> dict[str, Any]:
    """Return what `from_pretrained` needs to quantise while it loads. Raises as `require_bitsandbytes`."""
    from transformers import BitsAndBytesConfig

    require_bitsandbytes(quantisation)
    # It tells every layer of every step that it casts, and what would be faster, on the user's terminal.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantisation == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings}


def held_bytes(model: Any, dtype: torch.dtype, quantisation: Quantisation | None) -> int:
    """Return the bytes that the weights of a causal LM take when loaded so; the model may lie on the meta device."""
    from torch import nn

    total: int = sum(parameter.numel() for parameter in model.parameters())
    if quantisation is None:
        return total * dtype.itemsize
    head = model.get_output_embeddings()
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    quantised: int = sum(weight.numel() for weight in linear)
    scales: int = sum(4 * weight.shape[0] for weight in linear) if quantisation == "int8" else 0
    return (total - quantised) * dtype.itemsize + int(quantised * _BITS_A_WEIGHT[quantisation] / 8) + scales
