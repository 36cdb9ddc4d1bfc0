"""Types of tensors as llama-quantize chooses them, and quantisation by llama.cpp's code.

`llama_quantize.json` was written by the program `llama-quantize` of the llama.cpp in llama-cpp-python 0.3.36: for each
shape and type the bytes of all tensors, and the type of each kind of matrix, layer by layer where layers differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from kdtool_export.gguf.quantisation import FILE_TYPES, ModelShape, encode, tensor_type

FIXTURE: dict[str, Any] = json.loads(Path(__file__).with_name("llama_quantize.json").read_text(encoding="utf-8"))


def sizes_of(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and sizes of a Llama's tensors."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    heads, shared = (config[f"num_{part}_heads"] * config["head_dim"] for part in ("attention", "key_value"))
    yield "token_embd.weight", (config["vocab_size"], hidden)
    if not config["tie_word_embeddings"]:
        yield "output.weight", (config["vocab_size"], hidden)
    yield "output_norm.weight", (hidden,)
    matrices = {
        "attn_q": (heads, hidden),
        "attn_k": (shared, hidden),
        "attn_v": (shared, hidden),
        "attn_output": (hidden, heads),
        "ffn_gate": (wide, hidden),
        "ffn_up": (wide, hidden),
        "ffn_down": (hidden, wide),
        "attn_norm": (hidden,),
        "ffn_norm": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        yield from ((f"blk.{layer}.{part}.weight", size) for part, size in matrices.items())


@pytest.mark.parametrize(
    ("shape", "file"), [(shape, file) for shape, told in FIXTURE.items() for file in told["files"]]
)
def test_types_and_sizes_are_those_of_llama_quantize(shape: str, file: str) -> None:
    config, expected = FIXTURE[shape]["config"], FIXTURE[shape]["files"][file]
    mix, _, weighted = file.partition(" ")
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    model = ModelShape(config["num_hidden_layers"], group, config["tie_word_embeddings"])
    found: dict[str, list[str]] = {}
    total = 0
    for name, size in sizes_of(config):
        kind = tensor_type(mix, name, size, model, weighted=bool(weighted))
        block, stored = GGML_QUANT_SIZES[kind]
        total += int(np.prod(size)) // block * stored
        if len(size) > 1:
            found.setdefault(name.split(".")[2 if name.startswith("blk.") else 0], []).append(kind.name)
    assert {part: kinds[0] if len({*kinds}) == 1 else " ".join(kinds) for part, kinds in found.items()} == expected[
        "types"
    ]
    assert total == expected["bytes"]


@pytest.mark.parametrize(("kind", "deviation"), [("Q2_K", 0.3), ("Q4_K", 0.08), ("Q6_K", 0.02), ("IQ4_XS", 0.08)])
def test_a_quantised_matrix_is_close_to_itself(kind: str, deviation: float) -> None:
    values = np.random.default_rng(0).normal(size=(1100, 512)).astype(np.float32)  # more rows than one call takes
    stored = GGMLQuantizationType[kind]
    found = dequantize(encode(values, stored), stored)
    assert np.sqrt(np.mean((found - values) ** 2)) < deviation
    assert (encode(values, stored, threads=1) == encode(values, stored, threads=3)).all()


def test_important_columns_are_kept_better() -> None:
    values = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    importance = np.ones(256, dtype=np.float32)
    importance[::8] = 1000
    errors = [
        np.mean((dequantize(encode(values, kind, weights), kind) - values)[:, ::8] ** 2)
        for kind in [GGMLQuantizationType.Q2_K]
        for weights in (None, importance)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_columns_that_never_had_an_input_leave_finite_weights() -> None:
    values = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    for kind in (
        GGMLQuantizationType[name] for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q5_0", "IQ4_XS")
    ):
        found = encode(values, kind, np.zeros(256, dtype=np.float32))
        assert np.isfinite(dequantize(found, kind)).all(), kind


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(kdtool.PluginError, match="contain infinities or NaN"):
        encode(np.full((1, 256), np.nan, dtype=np.float32), GGMLQuantizationType.Q4_K)


def test_every_type_has_a_number() -> None:
    assert {name: kind.value for name, kind in FILE_TYPES.items() if name in {"q4_k_m", "q2_k", "f32"}} == {
        "q4_k_m": 15,
        "q2_k": 10,
        "f32": 0,
    }
