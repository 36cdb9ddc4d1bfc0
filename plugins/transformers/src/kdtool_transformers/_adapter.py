"""A PEFT adapter on top of an opened model: folded into its weights, or beside them where those are quantised.

`_open.open_model` calls it. Only safetensors are read.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from kdtool_transformers._quantised import Quantisation

__all__ = ["adapter_identity", "add_adapter", "require_adapter"]

_SETTINGS, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def require_adapter(folder: Path) -> None:
    """Refuse a folder that holds no adapter, or one that cannot be opened safely.

    Raises:
        UsageError: a file is missing, or peft is not installed.
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


def adapter_identity(folder: Path) -> str:
    """Return what names an adapter's content. Raises as `require_adapter`."""
    from hashlib import sha256

    from kdtool_transformers._files import content_hash

    require_adapter(folder)
    return sha256("".join(content_hash(folder / name) for name in (_SETTINGS, _WEIGHTS)).encode()).hexdigest()


def add_adapter(model: Any, folder: Path, quantisation: Quantisation | None) -> Any:
    """Return the model with the adapter in `folder`, for inference.

    Plain weights take the adapter in and the model is as before; quantised ones keep it beside them, since the sum would be
    rounded to their few levels.

    Raises:
        UsageError: it is an adapter of another model, or changes the head of a quantised one.
    """
    import peft

    require_adapter(folder)
    try:
        with warnings.catch_warnings():  # of an attribute that transformers renamed and peft 0.21 still asks for
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            joined = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (ValueError, RuntimeError, KeyError) as error:
        raise kdtool.UsageError(
            f"the adapter in {folder} does not fit {type(model).__name__}: {str(error).strip().splitlines()[0]}; give the "
            "model that it was trained on"
        ) from error
    if quantisation is None:
        return joined.merge_and_unload().requires_grad_(True)
    if hasattr(joined.get_output_embeddings(), "base_layer") or hasattr(
        joined.get_output_embeddings(), "modules_to_save"
    ):
        raise kdtool.UsageError(
            f"the adapter in {folder} changes the head, which cannot be kept beside quantised weights; leave quantise out"
        )
    return joined.get_base_model()
