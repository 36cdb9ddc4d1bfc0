"""Check of a model folder's files before anything is built from them: their sizes, config.json, and the headers of weights.

A file that is damaged, or that claims more than the weights hold, is refused in seconds and in little memory. `open_model`,
`open_config` and `open_tokenizer` check everything that they open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool

_TEXT_BYTES = 128_000_000
"""Largest tokenizer, vocabulary or template that is parsed. The largest published ones have less than 40 MB."""
_JSON_BYTES = 32_000_000
_TEXTS = frozenset({".json", ".txt", ".model", ".jinja"})
_COUNT_KEYS = re.compile(r"n_layers?|num_(\w+_)?layers|num_labels|(num|n)_(\w+_)?experts")
"""Keys of config.json with the number of modules or entries that transformers creates one by one."""
_GREATEST_COUNT = 10_000
_AGAIN = "download or save the model again"


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model.

    Raises:
        UsageError: it is too large, is not JSON, or is not an object.
    """
    try:
        if file.stat().st_size > _JSON_BYTES:
            raise ValueError(f"it has {file.stat().st_size:,} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
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
    in a cache of the Hub (`is_cache`) that is not downloaded in full.

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
        require_complete(folder, *_without_values(kind, config, shapes))


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

    from kdtool_transformers.causal import no_progress_bar

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
