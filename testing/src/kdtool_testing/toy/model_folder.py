"""A small model in a folder, which transformers opens. Needs only the standard library."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from math import prod
from pathlib import Path

from kdtool_testing.toy.safetensors_file import write_safetensors
from kdtool_testing.toy.tokenizer_files import write_tokenizer

__all__ = ["write_toy_model"]

_WIDTH, _HEADS, _PAIRS, _INNER, _VOCABULARY, _CONTEXT = 32, 4, 2, 48, 257, 256


def write_toy_model(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Write a Llama of some 25,000 random weights and a tokenizer of bytes that `transformers` opens; return the folder.

    Needs neither torch nor transformers. Id i below 256 is the byte i, 256 ends a text. Context 256, width 32, float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"toy {seed}")
    inner = {"gate_proj": (_INNER, _WIDTH), "up_proj": (_INNER, _WIDTH), "down_proj": (_WIDTH, _INNER)}
    narrow = _WIDTH * _PAIRS // _HEADS
    heads = {"q_proj": _WIDTH, "k_proj": narrow, "v_proj": narrow, "o_proj": _WIDTH}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, _WIDTH)}
    for layer in range(layers):
        before = f"model.layers.{layer}"
        shapes |= {f"{before}.self_attn.{name}.weight": (rows, _WIDTH) for name, rows in heads.items()}
        shapes |= {f"{before}.mlp.{name}.weight": shape for name, shape in inner.items()}
        shapes |= {f"{before}.{name}.weight": (_WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
    shapes["model.norm.weight"] = (_WIDTH,)
    weights = {name: [rng.gauss(0, 0.25) for _ in range(prod(shape))] for name, shape in shapes.items()}
    write_safetensors(folder / "model.safetensors", shapes, weights)
    (folder / "config.json").write_text(json.dumps(_config(layers)), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def _config(layers: int) -> Mapping[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "vocab_size": _VOCABULARY, "hidden_size": _WIDTH, "intermediate_size": _INNER, "num_hidden_layers": layers,
        "num_attention_heads": _HEADS, "num_key_value_heads": _PAIRS, "head_dim": _WIDTH // _HEADS,
        "max_position_embeddings": _CONTEXT, "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False,
        "bos_token_id": 256, "eos_token_id": 256, "dtype": "float32", "torch_dtype": "float32",
    }  # fmt: skip
