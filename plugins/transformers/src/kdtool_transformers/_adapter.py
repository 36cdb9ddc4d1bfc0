"""A PEFT adapter on top of an opened model: folded into its weights, or kept next to them if they are quantised.

`_open.open_model` calls it. Only safetensors are read.
"""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from kdtool_transformers._loading import Quantisation

__all__ = ["adapter_identity", "add_adapter", "require_adapter"]

_SETTINGS, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
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
    missing = [name for name in (_SETTINGS, _WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise kdtool.UsageError(
            f"adapter: {folder} holds no {' and no '.join(missing)}; give a folder that peft's save_pretrained wrote"
        )
    if find_spec("peft") is None:
        raise kdtool.UsageError(
            "adapter: needs peft, which is not installed: pip install peft; or merge the adapter into its model once and "
            "give that folder"
        )
    _require_plausible(folder)


def _require_plausible(folder: Path) -> None:
    """Refuse settings for which peft would search, or allocate memory, without end."""
    from kdtool_transformers._headers import read_json, read_shapes

    settings, shapes = read_json(folder / _SETTINGS), read_shapes(folder / _WEIGHTS)
    if not shapes:
        raise kdtool.UsageError(f"adapter: {folder / _WEIGHTS} holds no weights; give a folder that peft wrote")
    by_pattern = isinstance(settings.get("target_modules"), str) and bool(_adapted_modules(folder))
    for key in _NAMED if by_pattern else (*_SELECTING[:-1], *_NAMED):
        value = settings.get(key) or ()
        for name in map(str, value if isinstance(value, list | dict | tuple) else [value]):
            if not re.fullmatch(r"[\w.^$|\\-]+", name):
                raise kdtool.UsageError(
                    f"adapter: {key} in {folder / _SETTINGS} is {name[:60]!r}; expected names of modules, since matching "
                    "repetitions may never end: list the modules by name"
                )
    patterns = settings.get("rank_pattern")
    ranks = [settings.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    greatest = max(min(shape.shape, default=1) for shape in shapes.values())
    for rank in ranks:
        if isinstance(rank, int | float) and not rank <= greatest:
            raise kdtool.UsageError(
                f"adapter: {folder / _SETTINGS} claims the rank {rank}, but the weights next to it have {greatest} at most; "
                "give the file that was saved with the weights"
            )


def _adapted_modules(folder: Path) -> list[str]:
    """Return the modules that a LoRA adapter has weights for; none for other adapters."""
    from kdtool_transformers._headers import read_shapes

    keys = (key.removeprefix("base_model.model.") for key in read_shapes(folder / _WEIGHTS))
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
    return sha256("".join(content_hash(folder / name) for name in (_SETTINGS, _WEIGHTS)).encode()).hexdigest()


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
