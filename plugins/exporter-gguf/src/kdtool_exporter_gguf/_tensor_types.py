"""The type that each tensor is stored in, by the rules of llama.cpp's `llama-quantize` (src/llama-quant.cpp).

The tests compare them with files of that program. Its rules for mixtures of experts, Falcon and models of 80 layers are
left out: no student is one.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple, Self, get_args

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from kdtool_exporter_gguf._mixes import Mix

__all__ = ["FILE_TYPES", "ModelShape", "stored_bytes", "tensor_type"]

_T = GGMLQuantizationType
_BASES = {mix: _T[mix.removesuffix("_m").upper()] for mix in get_args(Mix)}
FILE_TYPES: dict[str, LlamaFileType] = {
    mix: LlamaFileType[f"{'ALL' if mix == 'f32' else 'MOSTLY'}_{mix.upper()}"] for mix in get_args(Mix)
}
"""The number that a file states for its mix."""
_FALLBACKS = {
    _T.Q2_K: _T.Q4_0,
    _T.Q3_K: _T.Q4_0,
    _T.Q4_K: _T.Q5_0,
    _T.Q5_K: _T.Q5_1,
    _T.Q6_K: _T.Q8_0,
    _T.IQ4_XS: _T.IQ4_NL,
}
"""Types for rows that are not multiples of 256."""


class ModelShape(NamedTuple):
    """Properties of a model that the choice depends on: query heads per key-value head, and whether the head is tied."""

    layers: int
    group: int
    tied: bool

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return the shape of a model of transformers, given its configuration."""
        heads, shared = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
        return cls(config.num_hidden_layers, heads // (shared or heads), bool(config.tie_word_embeddings))


def tensor_type(
    mix: str, name: str, size: tuple[int, ...], model: ModelShape, *, weighted: bool
) -> GGMLQuantizationType:
    """Return the type of a tensor in a file of type `mix`.

    Args:
        mix: one of `Mix`.
        name: the tensor's name in the file.
        size: its size; the last is a row's.
        model: the model's shape.
        weighted: True if an importance matrix is used.
    """
    if len(size) < 2 or not name.endswith(".weight") or "_norm." in name or name == "position_embd.weight":
        return _T.F32
    base = _BASES[mix]
    if mix in {"f32", "f16", "bf16"}:
        return base
    if name == "output.weight" or (name == "token_embd.weight" and model.tied):
        fits = size[-1] % GGML_QUANT_SIZES[base][0] == 0
        return _fitting(_T.Q6_K if fits and mix != "q8_0" else _T.Q8_0, size[-1])
    _, layer, part, *_ = [*name.split("."), "", ""]
    return _fitting(_of_layer(mix, part, int(layer), model, weighted) or base if layer.isdigit() else base, size[-1])


def stored_bytes(kind: GGMLQuantizationType, size: tuple[int, ...]) -> int:
    """Return the bytes of a tensor of that type and size."""
    weights, stored = GGML_QUANT_SIZES[kind]
    return int(prod(size) * stored // weights)


def _of_layer(mix: str, part: str, layer: int, model: ModelShape, weighted: bool) -> GGMLQuantizationType | None:
    """Return the type of a layer's matrix; None for the mix's main type."""
    eighth = model.layers // 8
    sensitive = layer < eighth or layer >= 7 * model.layers // 8 or (layer - eighth) % 3 == 2
    if part in {"attn_v", "attn_qkv"}:
        return {
            "q2_k": _T.Q4_K if model.group >= 4 else _T.Q3_K,
            "q3_k_m": _T.Q5_K if layer < 2 else _T.Q4_K,
            "q4_k_m": _T.Q6_K if sensitive else None,
            "q5_k_m": _T.Q6_K if sensitive else None,
            "iq4_xs": _T.Q5_K if model.group >= 4 else None,
        }.get(mix)
    if part == "ffn_down":
        return {
            "q2_k": _T.Q3_K,
            "q3_k_m": _T.Q5_K if layer < model.layers // 16 else _T.Q4_K,
            "q4_k_m": _T.Q6_K if sensitive else None,
            "q5_k_m": _T.Q6_K if sensitive else None,
            "q4_0": _T.Q4_1 if weighted and layer < eighth else None,
            "iq4_xs": None if weighted or layer >= eighth else _T.Q5_K,
        }.get(mix)
    return {"q2_k": _T.Q3_K, "q3_k_m": _T.Q4_K}.get(mix) if part == "attn_output" else None


def _fitting(kind: GGMLQuantizationType, width: int) -> GGMLQuantizationType:
    """Return a type that stores rows of `width`: this one, its fallback, or F16."""
    for candidate in (kind, _FALLBACKS.get(kind, kind)):
        if width % GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    return _T.F16
