"""Settings for loading weights: quantised to 4 or 8 bits by bitsandbytes, on one device or spread by accelerate.

`_open.open_model` loads by `loading_settings` and `place_head`; `held_bytes` counts the bytes of weights, from a model
on the meta device. Embeddings, norms and the head stay in the dtype of the computation. Light: no torch.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import kdtool

if TYPE_CHECKING:
    import torch

__all__ = ["Quantisation", "held_bytes", "loading_settings", "place_head"]

Quantisation = Literal["nf4", "int8"]

_BITS_A_WEIGHT = {"nf4": 4 + (8 + 32 / 256) / 64, "int8": 8}
"""With their scales: nf4 has one of 8 bits for 64 weights, and one of 32 bits for 256 of those. int8 has one per row."""


def loading_settings(
    config: Any,
    dtype: torch.dtype | None,
    device: torch.device | str,
    quantise: Quantisation | None,
    device_map: str | None,
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that load weights in this form, and directly onto this device.

    Raises:
        UsageError: bitsandbytes is needed and not installed.
    """
    import torch

    settings: dict[str, Any] = {"device_map": device_map or {"": torch.device(device)}}
    if quantise is not None:
        settings["quantization_config"] = _quantisation(quantise, dtype or config.dtype or torch.float32)
    return settings


def _quantisation(quantise: Quantisation, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise kdtool.UsageError(
            f"quantise: {quantise} needs bitsandbytes, which is not installed: "
            "pip install bitsandbytes; or leave quantise out"
        )
    # It logs every cast of every layer and step, and faster alternatives, on the user's terminal.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantise == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def place_head(model: Any, device: torch.device | str) -> None:
    """Move the head of a model that accelerate spread, permanently: kdtool computes with its weight itself.

    The head, and an embedding that shares its weight, still bring their inputs to it.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    for module in {head, embedding} if embedding.weight is head.weight else {head}:
        is_spread = hasattr(module, "_hf_hook")
        remove_hook_from_module(module)
        module.to(device)
        if is_spread:
            add_hook_to_module(module, AlignDevicesHook(execution_device=device))


def held_bytes(model: Any, dtype: torch.dtype, quantisation: Quantisation | None) -> int:
    """Return the bytes that the weights of a causal LM take when loaded so; the model may be on the meta device."""
    from torch import nn

    total: int = sum(parameter.numel() for parameter in model.parameters())
    if quantisation is None:
        return total * dtype.itemsize
    head = model.get_output_embeddings()
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    quantised: int = sum(weight.numel() for weight in linear)
    scales: int = sum(4 * weight.shape[0] for weight in linear) if quantisation == "int8" else 0
    return (total - quantised) * dtype.itemsize + int(quantised * _BITS_A_WEIGHT[quantisation] / 8) + scales
