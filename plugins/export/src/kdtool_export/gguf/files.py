"""Models of transformers as GGUF files: llama.cpp's architecture, metadata, names of tensors, and writing the file.

`write_gguf` refuses models that llama.cpp would compute differently, by their class, a setting or their tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gguf
import kdtool
import numpy as np
from gguf.quants import quantize
from kdtool_transformers import TransformersModel, TransformersTokenizer
from torch import Tensor

from kdtool_export.gguf.tokenizers import CONVERT, GGUFVocabulary, name_of_splitting

if TYPE_CHECKING:
    import torch


def write_gguf(
    source: TransformersModel,
    file: Path,
    *,
    dtype: Literal["f32", "f16", "bf16", "q8_0"] = "f32",
    pre: str = "",
    licence: str = "apache-2.0",
    name: str = "",
    file_type: gguf.LlamaFileType | None = None,
    encode: Callable[[str, Tensor], tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]] | None = None,
) -> Path:
    """Write a model as a GGUF file, and return its path.

    Args:
        source: the model, of a class that `require_gguf` accepts.
        file: where to.
        dtype: what matrices are stored in; q8_0 is blocks of 32 numbers in 8 bits with a scale, and a matrix whose rows
            are not a multiple of 32 is then stored in f16. Vectors stay in f32.
        pre: llama.cpp's name for how the tokenizer splits text into words. "" finds it.
        licence: the licence to record in the file ("" for none).
        name: the model's name to record ("" for none).
        file_type: the mix of types to record.
        encode: returns a tensor's stored values and their type, given its name in the file. None stores all in `dtype`.

    Raises:
        UsageError: the model or its tokenizer is of another kind, which this cannot write.
    """
    config = source.model.config
    require_gguf(config, source.tokenizer)
    writer = writer_of(config, file)
    if name:
        writer.add_name(name)
    if licence:
        writer.add_license(licence)
    if file_type is not None:
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_architecture(writer, config)
    GGUFVocabulary.of(source.tokenizer, config.vocab_size).add_to(writer, pre or name_of_splitting(source.tokenizer))
    for tensor_name, tensor in gguf_tensors(source.model):
        values, kind = encode(tensor_name, tensor) if encode else _encode_in_dtype(tensor, dtype)
        writer.add_tensor(tensor_name, values, raw_dtype=kind)
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return file


def _encode_in_dtype(tensor: Tensor, dtype: str) -> tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]:
    kind = gguf.GGMLQuantizationType[dtype.upper() if tensor.ndim > 1 else "F32"]
    if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = gguf.GGMLQuantizationType.F16
    return quantize(tensor.float().cpu().contiguous().numpy(), kind), kind


def require_gguf(config: Any, tokenizer: TransformersTokenizer) -> None:
    """Refuse a model that `write_gguf` would write as something else than it is.

    Raises:
        UsageError: llama.cpp lacks the class or a setting of it, its tokenizer is another kind than llama.cpp's or changes
            text before it splits it, or the vocabulary has no room for what the format wants.
    """
    require_architecture(config)
    GGUFVocabulary.of(tokenizer, config.vocab_size)


class _Architecture(NamedTuple):
    """llama.cpp's graph for a class.

    `biases`: attention and feed-forward biases are optional. `fills_hidden`: heads times head size must be the hidden size.
    """

    kind: gguf.MODEL_ARCH
    activation: str
    biases: bool = False
    fills_hidden: bool = True


_LLAMA = _Architecture(gguf.MODEL_ARCH.LLAMA, "silu", biases=True, fills_hidden=False)
_ARCHITECTURES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _Architecture(gguf.MODEL_ARCH.QWEN2, "silu"),
    "qwen3": _Architecture(gguf.MODEL_ARCH.QWEN3, "silu", fills_hidden=False),
    "starcoder2": _Architecture(gguf.MODEL_ARCH.STARCODER2, "gelu_pytorch_tanh"),
    "gpt2": _Architecture(gguf.MODEL_ARCH.GPT2, "gelu_new"),
}
_TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
"""Weights that GPT-2's class stores as inputs × outputs."""
_REQUIRED = {
    "use_bias": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "truncate": True,
    "beta_fast": 32,
    "beta_slow": 1,
}
"""Settings that llama.cpp has only one value for."""


def require_architecture(config: Any) -> None:
    """Refuse a model that llama.cpp would compute differently.

    Raises:
        UsageError: llama.cpp lacks the class, or a setting of it.
    """
    known = _ARCHITECTURES.get(config.model_type)
    if known is None:
        raise kdtool.UsageError(
            f"models of the class {config.model_type} cannot be written as GGUF here, only {', '.join(_ARCHITECTURES)}: "
            f"{CONVERT}"
        )
    odd = list(_find_unsupported(config, known))
    if odd:
        raise kdtool.UsageError(
            f"a {config.model_type} with {', '.join(odd)} cannot be written as GGUF here: {CONVERT}"
        )


def _find_unsupported(config: Any, known: _Architecture) -> Iterator[str]:
    rope = _rope(config)
    if not known.biases:
        yield from (name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False))
    activation = getattr(config, "hidden_act", None) or config.activation_function
    if activation != known.activation:
        yield f"hidden_act {activation}"
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "yarn") and (kind, known) != ("llama3", _LLAMA):
        yield f"rope_type {kind}"
    for name, value in _REQUIRED.items():
        given = rope.get(name, getattr(config, name, value))
        if given not in (value, None):
            yield f"{name} {given}"
    width = config.num_attention_heads * _head_size(config)
    if known.fills_hidden and width != config.hidden_size:
        yield f"heads that are {width} wide with a hidden size of {config.hidden_size}"


def writer_of(config: Any, file: Any) -> gguf.GGUFWriter:
    """Return a writer for the model's architecture."""
    return gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[_ARCHITECTURES[config.model_type].kind])


def add_architecture(writer: gguf.GGUFWriter, config: Any) -> None:
    """Write the sizes and constants of a model."""
    heads = config.num_attention_heads
    # llama.cpp attends to everything here, which is the same model within the window alone.
    window = getattr(config, "sliding_window", None)
    writer.add_context_length(min(config.max_position_embeddings, window or config.max_position_embeddings))
    if window:
        writer.add_sliding_window(window)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or config.n_inner or 4 * config.n_embd)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", heads))
    writer.add_key_length(_head_size(config))  # llama.cpp's own guess is hidden size / heads, which heads need not fill
    writer.add_value_length(_head_size(config))
    writer.add_vocab_size(config.vocab_size)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(getattr(config, "norm_epsilon", None) or config.layer_norm_epsilon)
    if _rope(config):
        _add_rope(writer, config)


def _add_rope(writer: gguf.GGUFWriter, config: Any) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = _rope(config)
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        trained = rope["original_max_position_embeddings"]
        factor = rope["factor"] or config.max_position_embeddings / trained
        _, scale = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(trained)
        writer.add_rope_scaling_attn_factors(scale / (1 + 0.1 * math.log(factor)))  # beyond llama.cpp's own


def gguf_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a model by llama.cpp's names, arranged as it expects them.

    Raises:
        UsageError: llama.cpp has no place for one of them.
    """
    config = model.config
    known = _ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(known.kind, config.num_hidden_layers)
    rotated = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", 0)}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise kdtool.UsageError(f"GGUF has no place for the weight {name} of a {config.model_type}: {CONVERT}")
        count = rotated.get(name.split(".")[-2]) if known is _LLAMA else None
        yield (
            gguf_name,
            _arrange(weight, count, transposed=known.kind == gguf.MODEL_ARCH.GPT2 and name.endswith(_TRANSPOSED)),
        )
    if _rope(config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", _divisors(config)


def _arrange(weight: torch.Tensor, heads: int | None, *, transposed: bool) -> torch.Tensor:
    """Return a weight as llama.cpp stores it; with `heads` it interleaves the halves that rotate together."""
    if heads:
        return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
    return weight.T if transposed else weight


def _divisors(config: Any) -> torch.Tensor:
    """Return the numbers that Llama 3.1's scaling divides the plain frequencies by."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled: torch.Tensor = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]
    size = _head_size(config)
    plain: torch.Tensor = 1 / _rope(config)["rope_theta"] ** (torch.arange(0, size, 2).float() / size)
    return torch.div(plain, scaled)


def _rope(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or int(config.hidden_size // config.num_attention_heads)


def names_in_file(config: Any) -> Callable[[str], str]:
    """Return a function from the name of a module in transformers to its name in a file, "" if it has none."""
    arch = gguf.MODEL_ARCH.__members__.get(config.model_type.upper(), gguf.MODEL_ARCH.LLAMA)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    return lambda name: names.get_name(name) or ""
