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

_TEXT_BYTES = 128_000_000
"""Largest tokenizer, vocabulary or template that is parsed. The largest published ones have less than 40 MB."""
_JSON_BYTES = 32_000_000
_TEXTS = frozenset({".json", ".txt", ".model", ".jinja"})
_COUNT_KEYS = re.compile(r"n_layers?|num_(\w+_)?layers|num_labels|(num|n)_(\w+_)?experts")
"""Keys of config.json with the number of modules or entries that transformers creates one by one."""
_GREATEST_COUNT = 10_000
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


def require_plausible(folder: Path) -> None:
    """Refuse texts that are too large to parse, and a config.json that would create too many modules.

    Raises:
        UsageError: there is such a file.
    """
    for file in folder.iterdir():
        if file.suffix in _TEXTS and file.is_file() and file.stat().st_size > _TEXT_BYTES:
            raise kdtool.UsageError(
                f"{file} has {file.stat().st_size:,} bytes, more than the {_TEXT_BYTES:,} that kdtool parses: {_AGAIN}"
            )
    if not (folder / "config.json").is_file():
        return
    config = read_json(folder / "config.json")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in part.items():
            if _COUNT_KEYS.fullmatch(key) and isinstance(value, int | float) and not value <= _GREATEST_COUNT:
                raise _wrong(folder, f"{key} is {value}, expected {_GREATEST_COUNT:,} at most")


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
    shapes = read_shapes(*files)
    numbers = {number for name in shapes for number in re.findall(r"\d+", name)}
    layers = getattr(config.get_text_config(), "num_hidden_layers", None) or 0
    if numbers and layers > len(numbers):  # before they are built one by one
        raise _wrong(folder, f"it claims {layers} layers, but the names of the weights have {len(numbers)}")
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if shapes and isinstance(kind, type) and getattr(config, "quantization_config", None) is None:
        tied = getattr(kind, "_tied_weights_keys", None)
        pairs = [pair for pair in tied.items() if shapes.keys() >= set(pair)] if isinstance(tied, dict) else []
        if config.get_text_config().tie_word_embeddings and any(_differ(files, *pair) for pair in pairs):
            config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        require_complete(folder, *_without_values(kind, config, shapes))


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
            f"stored ({len(differing)} of the weights differ)",
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


def _without_values(kind: Any, config: Any, shapes: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """Return the model on the meta device, and the information about loading weights of these shapes into it."""
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
