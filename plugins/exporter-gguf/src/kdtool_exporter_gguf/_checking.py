"""Check that llama.cpp reproduces the student: from an exported file, and before training from a small stand-in."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_transformers import TransformersModel, TransformersTokenizer, without_weights

from kdtool_exporter_gguf._decoder import Decoder
from kdtool_exporter_gguf._held_text import WINDOW
from kdtool_exporter_gguf._parity import Parity, compare, require_parity
from kdtool_exporter_gguf._splitting import find_split_difference
from kdtool_exporter_gguf.gguf_file import write_gguf

if TYPE_CHECKING:
    from kdtool_exporter_gguf._config import GGUFConfig
    from kdtool_exporter_gguf._prepared import Prepared

__all__ = ["require_readable", "require_same"]


def require_readable(config: Any, tokenizer: TransformersTokenizer) -> None:
    """Have llama.cpp open a file with the student's tokenizer, and one layer of zeros with one head.

    Raises:
        UsageError: llama.cpp does not open it, or splits text differently.
    """
    model = without_weights(_narrow(config)).to_empty(device="cpu")
    for weight in model.parameters():
        weight.data.zero_()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = write_gguf(TransformersModel(model, tokenizer), Path(folder, "narrow.gguf"), dtype="f16")
        with Decoder(file, context=256, threads=1) as decoder:
            text = find_split_difference(tokenizer, decoder.tokenize)
    if text is not None:
        raise kdtool.UsageError(
            f"gguf: llama.cpp would split {text!r} differently from the student's tokenizer; export safetensors, or use a "
            "student with another tokenizer"
        )


def _narrow(config: Any) -> Any:
    """Return a configuration of the class with one head of the same size in one layer."""
    narrow = copy.deepcopy(config)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    narrow.update({"num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": size, "num_hidden_layers": 1})
    narrow.update({"layer_types": ["full_attention"], "intermediate_size": 32, "n_inner": 32})
    return narrow


def require_same(student: TransformersModel, file: Path, prepared: Prepared, config: GGUFConfig) -> Parity:
    """Compare tokens of a few texts, and logits on held-out text, with the student's; return how far the logits are.

    Raises:
        PluginError: tokens differ, or logits by more than the type explains.
    """
    context = min(WINDOW, student.facts.context or WINDOW)
    with Decoder(file, context=context, threads=config.threads) as decoder:
        text = find_split_difference(student.tokenizer, decoder.tokenize)
        if text is not None:
            raise kdtool.PluginError(
                f"gguf: llama.cpp splits {text!r} differently from the student's tokenizer; export safetensors"
            )
        parity = compare(student, prepared.windows, prepared.states, decoder)
    require_parity(parity, config.type, file)
    return parity
