"""Forms in which `open_model` loads weights: quantised to 4 or 8 bits, spread by accelerate, with a PEFT adapter.

Quantisation by bitsandbytes leaves embeddings, norms and the head in the dtype of the computation. `held_bytes` counts the
bytes of weights, from a model on the meta device. An adapter is folded into the weights, or kept next to them if they are
quantised; only safetensors are read. Light: no torch.
"""

from __future__ import annotations

import logging
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import kdtool

if TYPE_CHECKING:
    import torch

Quantisation = Literal["nf4", "int8"]
NF4_BITS = {True: 4 + (8 + 32 / 256) / 64, False: 4 + 32 / 64}
"""Bits per weight in nf4, with and without quantised scales: one scale per 64 weights, one float32 per 256 scales."""
_BITS_A_WEIGHT = {"nf4": NF4_BITS[True], "int8": 8}
"""int8 has one more scale per row."""


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
        settings["quantization_config"] = _quantisation_config(quantise, dtype or config.dtype or torch.float32)
    return settings


def _quantisation_config(quantise: Quantisation, dtype: torch.dtype) -> Any:
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


_ADAPTER_SETTINGS, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SELECTING = ("target_modules", "exclude_modules", "layers_pattern", "layers_to_transform")
"""Settings that select modules, some of them by a regular expression."""
_NAMED = ("modules_to_save", "rank_pattern", "alpha_pattern")
"""Other settings that name modules, and may do so by a regular expression."""


def require_adapter(folder: Path) -> None:
    """Refuse a folder that holds no adapter, or one that cannot be opened safely.

    Raises:
        UsageError: a file is missing, implausible or without weights, or peft is not installed.
        StorageError: its weights are damaged.
    """
    missing = [name for name in (_ADAPTER_SETTINGS, _ADAPTER_WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise kdtool.UsageError(
            f"adapter: {folder} holds no {' and no '.join(missing)}; give a folder that peft's save_pretrained wrote"
        )
    if find_spec("peft") is None:
        raise kdtool.UsageError(
            "adapter: needs peft, which is not installed: pip install peft; or merge the adapter into its model once and "
            "give that folder"
        )
    _require_plausible_adapter(folder)


def _require_plausible_adapter(folder: Path) -> None:
    """Refuse settings for which peft would search, or allocate memory, without end."""
    from kdtool_transformers.headers import read_json, read_shapes

    settings, shapes = read_json(folder / _ADAPTER_SETTINGS), read_shapes(folder / _ADAPTER_WEIGHTS)
    if not shapes:
        raise kdtool.UsageError(f"adapter: {folder / _ADAPTER_WEIGHTS} holds no weights; give a folder that peft wrote")
    by_pattern = isinstance(settings.get("target_modules"), str) and bool(_adapted_modules(folder))
    for key in _NAMED if by_pattern else (*_SELECTING[:-1], *_NAMED):
        value = settings.get(key) or ()
        for name in map(str, value if isinstance(value, list | dict | tuple) else [value]):
            if not re.fullmatch(r"[\w.^$|\\-]+", name):
                raise kdtool.UsageError(
                    f"adapter: {key} in {folder / _ADAPTER_SETTINGS} is {name[:60]!r}; expected names of modules, since "
                    "matching repetitions may never end: list the modules by name"
                )
    patterns = settings.get("rank_pattern")
    ranks = [settings.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    greatest = max(min(shape.shape, default=1) for shape in shapes.values())
    for rank in ranks:
        if isinstance(rank, int | float) and not rank <= greatest:
            raise kdtool.UsageError(
                f"adapter: {folder / _ADAPTER_SETTINGS} claims the rank {rank}, but the weights next to it have "
                f"{greatest} at most; give the file that was saved with the weights"
            )


def _adapted_modules(folder: Path) -> list[str]:
    """Return the modules that a LoRA adapter has weights for; none for other adapters."""
    from kdtool_transformers.headers import read_shapes

    keys = (key.removeprefix("base_model.model.") for key in read_shapes(folder / _ADAPTER_WEIGHTS))
    return sorted({key.partition(".lora_")[0] for key in keys if ".lora_" in key})


def _read_config(folder: Path) -> Any:
    """Return peft's configuration. Modules that LoRA selects by a regular expression are taken from the weights instead."""
    import peft

    config: Any = peft.PeftConfig.from_pretrained(str(folder))
    modules = _adapted_modules(folder)
    if modules and isinstance(config.target_modules, str):
        for key in _SELECTING:
            setattr(config, key, None)
        config.target_modules = modules
    return config


def adapter_identity(folder: Path) -> str:
    """Return a hash of an adapter's content. Raises as `require_adapter`."""
    from hashlib import sha256

    from kdtool_torch import content_hash

    require_adapter(folder)
    return sha256(
        "".join(content_hash(folder / name) for name in (_ADAPTER_SETTINGS, _ADAPTER_WEIGHTS)).encode()
    ).hexdigest()


def add_adapter(model: Any, folder: Path, quantisation: Quantisation | None) -> Any:
    """Return the model with the adapter in `folder`, for inference.

    Plain weights absorb the adapter, and the model's structure stays. Next to quantised weights it remains separate, since
    the sum would be rounded to their few levels.

    Raises:
        UsageError: it is an adapter of another model, or changes the head of a quantised one.
    """
    import peft

    require_adapter(folder)
    try:
        with warnings.catch_warnings():  # of an attribute that transformers renamed and peft 0.21 still asks for
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            # peft would leave missing weights at their initial values.
            warnings.filterwarnings("error", "Found missing adapter keys")
            joined = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=False, config=_read_config(folder))
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, Warning) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise kdtool.UsageError(
            f"the adapter in {folder} does not fit {type(model).__name__}: {reason}; give the "
            "model that it was trained on"
        ) from error
    if quantisation is None:
        return joined.merge_and_unload().requires_grad_(True)
    if hasattr(joined.get_output_embeddings(), "base_layer") or hasattr(
        joined.get_output_embeddings(), "modules_to_save"
    ):
        raise kdtool.UsageError(
            f"the adapter in {folder} changes the head, which cannot be kept with quantised weights; leave quantise out"
        )
    return joined.get_base_model()
