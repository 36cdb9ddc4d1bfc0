"""Check that llama.cpp reproduces the student: from an exported file, and before training from a small stand-in."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_transformers import (
    TransformersModel,
    TransformersRuntime,
    TransformersTokenizer,
    name_of_splitting,
    without_weights,
    write_gguf,
)

from kdtool_exporter_gguf._runtime import GGUFRuntime
from kdtool_exporter_gguf._scoring import pieces
from kdtool_exporter_gguf._server import LlamaCpp
from kdtool_exporter_gguf._splitting import SAMPLES, find_split_difference

if TYPE_CHECKING:
    from kdtool_exporter_gguf._config import GGUFConfig

__all__ = ["name_of_splitting", "require_readable", "require_same"]

_TOLERANCE = {"f32": 0.01, "f16": 0.01, "bf16": 0.03, "q8_0": 0.05}
"""Relative tolerance of log-likelihoods. llama.cpp keeps keys and values in half precision, and for q8_0 also rounds
activations to 8 bits; SmolLM2-135M deviates by 1.1 % there and by 0.02 % in f16."""


def require_readable(config: Any, tokenizer: TransformersTokenizer) -> None:
    """Have llama.cpp open a file with the student's tokenizer, and one layer of zeros with one head.

    Raises:
        UsageError: llama.cpp does not open it, or splits text differently.
    """
    model = without_weights(_narrow(config)).to_empty(device="cpu")
    for weight in model.parameters():
        weight.data.zero_()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pre = name_of_splitting(tokenizer)
        file = write_gguf(TransformersModel(model, tokenizer), Path(folder, "narrow.gguf"), dtype="f16", pre=pre)
        with LlamaCpp(file, context=256, threads=1) as server:
            text = find_split_difference(tokenizer, lambda text: [piece.id for piece in pieces(server, text)])
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


def require_same(student: TransformersModel, file: Path, config: GGUFConfig) -> None:
    """Compare tokens and log-likelihoods of a few texts with the student's.

    Raises:
        PluginError: they differ by more than the precision of `dtype` explains.
    """
    expected = TransformersRuntime(student).score(SAMPLES)
    with GGUFRuntime(file, context=config.context, threads=config.threads) as runtime:
        text = find_split_difference(
            student.tokenizer, lambda text: [piece.id for piece in pieces(runtime.server, text)]
        )
        if text is not None:
            raise kdtool.PluginError(
                f"gguf: llama.cpp splits {text!r} differently from the student's tokenizer; export safetensors"
            )
        for score, found in zip(expected, runtime.score(SAMPLES), strict=True):
            deviation = abs(found.log_likelihood / score.log_likelihood - 1)
            if not deviation <= _TOLERANCE[config.dtype]:
                raise kdtool.PluginError(
                    f"gguf: the file differs from the student: a log-likelihood deviates by {deviation:.1%} "
                    f"(allowed {_TOLERANCE[config.dtype]:.0%}) in {config.dtype}; export with dtype: f32"
                )
