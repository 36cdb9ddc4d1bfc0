"""Weights on disk: what a folder's headers claim, and the forms in which they are loaded, quantised or with an adapter.

A file that is damaged, or that claims more than the weights hold, is refused in seconds and in little memory, before
anything is built from it. Quantisation by bitsandbytes, to 4 or 8 bits, leaves embeddings, norms and the head in the dtype
of the computation; `held_bytes` counts the bytes, from a model on the meta device. A PEFT adapter is folded into the
weights, or kept next to them if they are quantised. Only safetensors are read. Light: no torch.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import kdtool

if TYPE_CHECKING:
    import torch

_JSON_BYTES = 32_000_000
_AGAIN = "download or save the model again"


def forget_beyond(inner: Any, rows: int | None) -> None:
    """Remove control tokens for which the model has no row, such as that of images in text models of Gemma 3."""
    from tokenizers import Tokenizer

    content = json.loads(inner.backend_tokenizer.to_str())
    known = [token for token in content["added_tokens"] if not (rows and token["special"] and token["id"] >= rows)]
    if len(known) < len(content["added_tokens"]):
        inner._tokenizer = Tokenizer.from_str(json.dumps({**content, "added_tokens": known}))


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model.

    Raises:
        UsageError: it is too large, is not JSON, or is not an object.
    """
    try:
        with kdtool.open_regular(file, _JSON_BYTES) as opened:
            content = json.loads(opened.read().decode())
        if not isinstance(content, dict):
            raise TypeError(f"it holds a {type(content).__name__}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise kdtool.UsageError(
            f"{file} cannot be read: {error}; expected a JSON object of {_JSON_BYTES:,} bytes at most: {_AGAIN}"
        ) from error
    return content


def require_fit(folder: Path, config: Any, *, is_cache: bool = False) -> None:
    """Compare a configuration with the headers of the weights next to it; the model is built without memory for its values.

    Weights that a library quantised have other shapes, which only that library knows: they are not compared. Nor are those
    in a cache of the Hub (`is_cache`) that is not downloaded in full. Where the weights hold a head that differs from the
    embedding, the configuration is changed to say so: merged adapters are often stored with one that claims a tie.

    Raises:
        UsageError: shapes differ, or weights are missing.
        StorageError: a file of weights is damaged.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    files = weight_files(folder)
    absent = [file.name for file in files if not file.is_file()]
    if absent and is_cache:
        return
    if absent:
        raise kdtool.UsageError(
            f"{folder} lacks {', '.join(absent[:3])}, which model.safetensors.index.json names: {_AGAIN}"
        )
    shapes, kind = read_shapes(*files), MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if shapes and isinstance(kind, type) and getattr(config, "quantization_config", None) is None:
        tied = getattr(kind, "_tied_weights_keys", None)
        pairs = [pair for pair in tied.items() if shapes.keys() >= set(pair)] if isinstance(tied, dict) else []
        if config.get_text_config().tie_word_embeddings and any(_differ(files, *pair) for pair in pairs):
            config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        require_complete(folder, *build_without_values(kind, config, shapes))


def _differ(files: Sequence[Path], *names: str) -> bool:
    """Return whether two stored tensors differ."""
    from safetensors import safe_open

    found = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            found += [opened.get_tensor(name) for name in set(names) & set(opened.keys())]
    return not found[0].equal(found[1])


def require_complete(where: Path | str, model: Any, loaded: Mapping[str, Any]) -> None:
    """Refuse weights that transformers did not find in full, given the information that it returns about loading.

    transformers would draw the missing ones at random, and only warn.

    Raises:
        UsageError: shapes differ, or weights are missing.
    """
    differing = sorted(loaded["mismatched_keys"])
    if differing:
        name, stored, expected = differing[0]
        raise _wrong(
            where,
            f"it does not match the weights: by config.json {name} has the shape {tuple(expected)}, but {tuple(stored)} is "
            f"stored (differing weights: {len(differing)})",
        )
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise kdtool.UsageError(
            f"{where} lacks {len(missing)} of the weights of {type(model).__name__} ({', '.join(missing[:3])}): it "
            "is not a complete causal language model, perhaps one without its head; give a complete one"
        )


def read_shapes(*files: Path) -> dict[str, Any]:
    """Return the tensors of safetensors files by name, on the meta device: only headers are read.

    Raises:
        StorageError: a file is cut short or damaged.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    shapes[name] = torch.empty(opened.get_slice(name).get_shape(), device="meta")
        except (SafetensorError, OSError) as error:
            raise kdtool.StorageError(f"{file} is cut short or damaged: download it again ({error})") from error
    return shapes


def build_without_values(kind: Any, config: Any, shapes: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Return a causal LM on the meta device, and the information about loading weights of these shapes into it."""
    from kdtool_torch import isolated_rng
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would print a table of what differs
    try:
        with isolated_rng(), no_progress_bar():
            model, loaded = kind.from_pretrained(
                None,
                config=config,
                state_dict=shapes,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    finally:
        logging.set_verbosity(verbosity)
    return model, loaded


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers reads weights from, none if there are none.

    Raises:
        UsageError: the index names files elsewhere.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    entries = read_json(index).get("weight_map")
    names = sorted({str(name) for name in entries.values()}) if isinstance(entries, dict) else [""]
    for name in names:
        if not re.fullmatch(r"[^/\\:]+\.safetensors", name):
            raise kdtool.UsageError(
                f"{index} names {name!r} as a file of weights; expected names of .safetensors files next to it: {_AGAIN}"
            )
    return [folder / name for name in names]


def _wrong(where: Path | str, what: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"{where}/config.json: {what}; give the file that was saved with the weights: {_AGAIN}")


Quantisation = Literal["nf4", "int8"]


NF4_BITS = 4 + (8 + 32 / 256) / 64
"""Bits per weight in nf4: one scale of 8 bits per 64 weights, one float32 per 256 scales."""


_BITS_A_WEIGHT = {"nf4": NF4_BITS, "int8": 8}
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


def missing_quantiser(quantise: Quantisation | None) -> str:
    """Return what is missing to keep weights in few bits, and what to do; "" if nothing is."""
    if quantise is None or find_spec("bitsandbytes") is not None:
        return ""
    return f"quantise: {quantise} needs bitsandbytes, which is not installed: pip install bitsandbytes, or leave it out"


def _quantisation_config(quantise: Quantisation, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if missing := missing_quantiser(quantise):
        raise kdtool.UsageError(missing)
    # It logs every cast of every layer and step, and faster alternatives, on the user's terminal.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantise == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
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


def require_adapter(folder: Path) -> None:
    """Refuse a folder that holds no adapter.

    Raises:
        UsageError: a file is missing, or peft is not installed.
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
            joined = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except MemoryError:
        raise
    except Exception as error:
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


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers' bars for loading and saving off the terminal while the block runs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
