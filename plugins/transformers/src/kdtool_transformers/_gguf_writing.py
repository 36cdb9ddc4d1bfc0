"""Models of Llama's class as GGUF files, for llama.cpp and what reads its format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import gguf
import kdtool
import numpy as np
from gguf.quants import quantize
from torch import Tensor

from kdtool_transformers._gguf_vocabulary import CONVERT, GGUFVocabulary, check_bpe_settings
from kdtool_transformers._model import TransformersModel
from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["require_gguf", "require_gguf_ahead", "write_gguf"]

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.layers": "blk",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    source: TransformersModel,
    file: Path,
    *,
    dtype: Literal["f32", "f16", "bf16", "q8_0"] = "f32",
    pre: str = "gpt-2",
    licence: str = "apache-2.0",
    name: str = "",
    file_type: gguf.LlamaFileType | None = None,
    encode: Callable[[str, Tensor], tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]] | None = None,
) -> Path:
    """Write a Llama with a byte-level BPE tokenizer as a GGUF file, and return its path.

    Args:
        source: the model. A tokenizer that merges nothing gets one merge that is never used: the format wants one.
        file: where to.
        dtype: what matrices are stored in; q8_0 is blocks of 32 numbers in 8 bits with a scale, and a matrix whose rows
            are not a multiple of 32 is then stored in f16. Vectors stay in f32.
        pre: llama.cpp's name for how the tokenizer splits text into words.
        licence: the licence to record in the file; "" for none.
        name: the model's name to record, or "".
        file_type: the mix of types to record.
        encode: returns a tensor's stored values and their type, given its name in the file. None stores all in `dtype`.

    Raises:
        UsageError: the model or its tokenizer is of another kind, which this cannot write.
    """
    config = source.model.config
    require_gguf(config, source.tokenizer)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(file, "llama")
    if licence:
        writer.add_license(licence)
    if name:
        writer.add_name(name)
    if file_type is not None:
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)  # llama.cpp's own guess is hidden size / heads, which heads need not fill
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    GGUFVocabulary.of(source.tokenizer, config.vocab_size).add_to(writer, pre)
    for own, weight in source.model.state_dict().items():
        if own == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs, tensor = own, weight
        for old, new in _NAMES.items():
            theirs = theirs.replace(old, new)
        for part, count in (("attn_q.", heads), ("attn_k.", kv_heads)):
            if part in theirs:  # GGUF interleaves the halves that rotate together
                tensor = weight.view(count, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        values, kind = encode(theirs, tensor) if encode else _encode(tensor, dtype)
        writer.add_tensor(theirs, values, raw_dtype=kind)
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return file


def _encode(tensor: Tensor, dtype: str) -> tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]:
    kind = gguf.GGMLQuantizationType[dtype.upper() if tensor.ndim > 1 else "F32"]
    if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = gguf.GGMLQuantizationType.F16
    return quantize(tensor.float().cpu().contiguous().numpy(), kind), kind


def require_gguf(config: Any, tokenizer: TransformersTokenizer) -> None:
    """Refuse a model that `write_gguf` would write as something else than it is.

    Raises:
        UsageError: the class is not Llama, it has what the format's Llama has not, its tokenizer is not a byte-level BPE or
            changes text before it splits it, or the vocabulary has no room for what the format wants.
    """
    _require_class(config)
    GGUFVocabulary.of(tokenizer, config.vocab_size)


def require_gguf_ahead(config: Any, published_tokenizer: Mapping[str, Any] | None) -> None:
    """Refuse as `require_gguf` what is known to be refused before a tokenizer is downloaded.

    Args:
        config: the model's configuration.
        published_tokenizer: what is known of tokenizer.json; None where nothing is.

    Raises:
        UsageError: see `require_gguf`.
    """
    _require_class(config)
    if published_tokenizer is not None:
        check_bpe_settings(published_tokenizer)


def _require_class(config: Any) -> None:
    if config.model_type != "llama":
        raise kdtool.UsageError(
            f"models of the class {config.model_type} cannot be written as GGUF here, only llama: {CONVERT}"
        )
    odd = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    if config.rope_parameters.get("rope_type", "default") != "default":
        odd.append(f"rope_type {config.rope_parameters['rope_type']}")
    if config.hidden_act != "silu":
        odd.append(f"hidden_act {config.hidden_act}")
    if odd:
        raise kdtool.UsageError(f"a Llama with {', '.join(odd)} cannot be written as GGUF here: {CONVERT}")
