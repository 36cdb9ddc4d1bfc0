"""For tests of plugins that need a small GGUF file: a model of Llama's class in llama.cpp's format, unquantised."""

from __future__ import annotations

import json
from pathlib import Path

import gguf

from kdtool_transformers._model import TransformersModel

__all__ = ["write_gguf"]

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


def write_gguf(source: TransformersModel, file: Path, *, pre: str = "gpt-2", licence: str = "apache-2.0") -> Path:
    """Write a Llama with a byte-level BPE tokenizer as a GGUF file, in float32, and return its path.

    Args:
        source: the model. A tokenizer that merges nothing gets one merge that is never used: the format wants one.
        file: where to.
        pre: llama.cpp's name for how the tokenizer splits text into words.
        licence: what the file says of itself.
    """
    config = source.model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_license(licence)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, source, pre, config.vocab_size)
    for name, weight in source.model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs, tensor = name, weight.float()
        for old, new in _NAMES.items():
            theirs = theirs.replace(old, new)
        for part, count in (("attn_q.", heads), ("attn_k.", kv_heads)):
            if part in theirs:  # GGUF interleaves the halves that rotate together
                tensor = weight.view(count, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        writer.add_tensor(theirs, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: gguf.GGUFWriter, source: TransformersModel, pre: str, size: int) -> None:
    inner = source.tokenizer.inner
    merges = json.loads(inner.backend_tokenizer.to_str())["model"]["merges"]
    tokens = [inner.convert_ids_to_tokens(number) for number in range(len(inner))]
    special = set(inner.all_special_tokens)
    if not merges:
        merges, tokens = [("Ġ", "Ġ")], [*tokens, "ĠĠ"]
    tokens += [f"<|unused{number}|>" for number in range(len(tokens), size)]
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.NORMAL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[token in special] for token in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_eos_token_id(inner.eos_token_id)
    writer.add_bos_token_id(inner.eos_token_id if inner.bos_token_id is None else inner.bos_token_id)
    writer.add_add_bos_token(False)
