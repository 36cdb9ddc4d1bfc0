"""A Llama as one ONNX graph of ONNX Runtime's fused operators, which run in browsers on WebGPU and in WebAssembly.

The graph reads the tokens of one text after a cache: `GroupQueryAttention` appends keys and values and rotates both,
`MatMulNBits` multiplies by matrices in 4 or 8 bits, and `GatherBlockQuantized` looks up rows of the embedding. Names of
inputs and outputs are those of transformers.js.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import kdtool
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_BITS = {"int8": 8, "q4": 4, "q4f16": 4}
"""Bits of the matrices between embedding and output, by type. Embedding and output have 8 bits in each."""
_CLASSES = ("llama", "qwen2")
_TABLE, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_LOGITS_KEPT = "num_logits_to_keep"
_WHOLE_PRECISION = 1
"""The `accuracy_level` that keeps activations in float32."""
_LARGEST = 2**31
"""Bytes of a file that protobuf and the buffers of a browser hold."""


class Shape(NamedTuple):
    """The sizes that the caller of a graph needs: `context` is the number of tokens that positions are stored for."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context: int
    vocabulary: int


def bits_of(matrix: str, dtype: str) -> int:
    """Return the bits of a matrix of the model, by its name; embedding and output have 8."""
    return 8 if matrix in {_TABLE, _HEAD} else _BITS[dtype]


def shape_of(config: Any, context: int) -> Shape:
    """Return the sizes of a Llama's graph that reads `context` tokens at most."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    longest = min(context, config.max_position_embeddings)
    heads = config.num_attention_heads
    return Shape(config.num_hidden_layers, heads, config.num_key_value_heads, head_size, longest, config.vocab_size)


def require_llama(config: Any) -> None:
    """Refuse a model that the graph would compute differently.

    Raises:
        UsageError: the class is not Llama or Qwen2, or a setting of it is not supported.
    """
    odd = list(_find_unsupported(config))
    if odd:
        raise kdtool.UsageError(
            f"web: a {config.model_type} with {', '.join(odd)} cannot be written for browsers; expected "
            f"{' or '.join(_CLASSES)} with hidden_act silu and heads of a multiple of 16: export onnx or gguf"
        )


def _find_unsupported(config: Any) -> Iterator[str]:
    if config.model_type not in _CLASSES:
        yield f"model_type {config.model_type}"
        return
    if config.hidden_act != "silu":
        yield f"hidden_act {config.hidden_act}"
    if getattr(config, "use_sliding_window", False):
        yield "use_sliding_window"
    size = shape_of(config, 1).head_size
    if size % 16:
        yield f"heads of {size} numbers"


def build_graph(model: Any, dtype: str, shape: Shape) -> bytes:
    """Return the serialised graph of a model of transformers in float32.

    Inputs are `input_ids` and `attention_mask` [1, tokens], `num_logits_to_keep` [1] (how many of the last tokens have
    logits; 0 for all), and `past_key_values.N.key` and `.value` [1, key-value heads, cached, head size]. None has a default,
    which a browser could not replace; ONNX Runtime GenAI gives `num_logits_to_keep` itself.

    Raises:
        UsageError: the graph is larger than a browser can open.
    """
    writer = _Writer(dtype, shape)
    writer.write(model)
    data = writer.finish()
    if data.ByteSize() >= _LARGEST:
        raise kdtool.UsageError(
            f"web: the graph in {dtype} has {data.ByteSize():,} bytes, and a browser opens less than {_LARGEST:,}; "
            "export q4, or a smaller student"
        )
    return data.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


class _Writer:
    def __init__(self, dtype: str, shape: Shape) -> None:
        self._dtype, self._shape = dtype, shape
        self._float = np.float16 if dtype == "q4f16" else np.float32
        self._type = TensorProto.FLOAT16 if dtype == "q4f16" else TensorProto.FLOAT
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def write(self, model: Any) -> None:
        weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
        self._rotation(model)
        self._lengths()
        self._quantise(_TABLE, weights[_TABLE])
        tied = model.config.tie_word_embeddings
        state = self._embed(_TABLE, weights[_TABLE].shape[1])
        norm, total = self._normalise(state, "", f"{_layer(0)}.input_layernorm", weights, model)
        for layer in range(self._shape.layers):
            attended = self._attend(layer, norm, weights)
            norm, total = self._normalise(attended, total, f"{_layer(layer)}.post_attention_layernorm", weights, model)
            last = layer + 1 == self._shape.layers
            following = "model.norm" if last else f"{_layer(layer + 1)}.input_layernorm"
            norm, total = self._normalise(self._feed(layer, norm, weights), total, following, weights, model)
        self._keep_last(norm)
        self._multiply("kept", _TABLE if tied else _HEAD, weights, "head")
        self._node("Cast", ["head"], ["logits"], to=TensorProto.FLOAT)

    def finish(self) -> onnx.ModelProto:
        caches = [f"{layer}.{part}" for layer in range(self._shape.layers) for part in ("key", "value")]
        sizes = self._shape.kv_heads, self._shape.head_size
        integers = {"input_ids": [1, "tokens"], "attention_mask": [1, "total"], _LOGITS_KEPT: [1]}
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in integers.items()]
        inputs += [self._cache(f"past_key_values.{each}", "cached", *sizes) for each in caches]
        outputs = [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "kept", self._shape.vocabulary]),
            *(self._cache(f"present.{each}", "total", *sizes) for each in caches),
        ]
        graph = helper.make_graph(self._nodes, "student", inputs, outputs, list(self._constants.values()))
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="kdtool")

    def _cache(self, name: str, tokens: str, kv_heads: int, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, self._type, [1, kv_heads, tokens, size])

    def _rotation(self, model: Any) -> None:
        """Store cosines and sines [context, head size / 2] of the model's own rotary embedding."""
        import torch

        positions = torch.arange(self._shape.context)[None]
        cosines, sines = model.model.rotary_emb(torch.zeros(1), positions)
        for name, values in (("cosines", cosines), ("sines", sines)):
            self._constant(name, values[0, :, : self._shape.head_size // 2].numpy().astype(self._float))

    def _lengths(self) -> None:
        """Compute `GroupQueryAttention`'s two lengths from the mask: of the text without its last token, and of it all."""
        for name, value in (("zeroth", [0]), ("axis", [1]), ("one", [1]), ("end", [2**31 - 1])):
            self._constant(name, np.array(value, np.int64))
        self._node("ReduceSum", ["attention_mask", "axis"], ["attended"], keepdims=0)
        self._node("Sub", ["attended", "one"], ["before_last"])
        self._node("Cast", ["before_last"], ["seqlens_k"], to=TensorProto.INT32)
        self._node("Shape", ["attention_mask"], ["mask_width"], start=1, end=2)
        self._node("Squeeze", ["mask_width"], ["mask_total"])
        self._node("Cast", ["mask_total"], ["total_sequence_length"], to=TensorProto.INT32)

    def _embed(self, table: str, width: int) -> str:
        """Look rows of the table up. `GatherBlockQuantized` reads the numbers without their division into blocks."""
        self._constant("rows", np.array([0, -1], np.int64))
        self._node("Reshape", [f"{table}.numbers", "rows"], [f"{table}.flat"])
        inputs = [f"{table}.flat", "input_ids", f"{table}.scales"]
        settings = {"gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK, "bits": 8}
        self._node("GatherBlockQuantized", inputs, ["wide"], "com.microsoft", **settings)
        if width % BLOCK == 0:
            return "wide"
        self._constant("width", np.array([width], np.int64))
        self._constant("last_axis", np.array([-1], np.int64))
        self._node("Slice", ["wide", "zeroth", "width", "last_axis"], ["embedded"])
        return "embedded"

    def _attend(self, layer: int, norm: str, weights: Mapping[str, NDArray[np.float32]]) -> str:
        before, cache = f"{_layer(layer)}.self_attn", f"past_key_values.{layer}"
        sides = [self._project(norm, f"{before}.{side}_proj", weights) for side in "qkv"]
        lengths = ["seqlens_k", "total_sequence_length", "cosines", "sines"]
        inputs = [*sides, f"{cache}.key", f"{cache}.value", *lengths]
        outputs = [f"{before}.read", f"present.{layer}.key", f"present.{layer}.value"]
        heads = {"num_heads": self._shape.heads, "kv_num_heads": self._shape.kv_heads, "do_rotary": 1}
        self._node("GroupQueryAttention", inputs, outputs, "com.microsoft", **heads)
        return self._project(outputs[0], f"{before}.o_proj", weights)

    def _feed(self, layer: int, norm: str, weights: Mapping[str, NDArray[np.float32]]) -> str:
        before = f"{_layer(layer)}.mlp"
        gate, up = (self._project(norm, f"{before}.{side}_proj", weights) for side in ("gate", "up"))
        self._node("Sigmoid", [gate], [f"{before}.sigmoid"])
        self._node("Mul", [gate, f"{before}.sigmoid"], [f"{before}.silu"])
        self._node("Mul", [f"{before}.silu", up], [f"{before}.gated"])
        return self._project(f"{before}.gated", f"{before}.down_proj", weights)

    def _normalise(
        self, value: str, total: str, name: str, weights: Mapping[str, NDArray[np.float32]], model: Any
    ) -> tuple[str, str]:
        """Add a value to the residual stream; return the normalised sum and the sum. "" for a stream that begins."""
        scale = self._constant(f"{name}.weight", weights[f"{name}.weight"].astype(self._float))
        epsilon = float(model.config.rms_norm_eps)
        if not total:
            self._node("SimplifiedLayerNormalization", [value, scale], [name], epsilon=epsilon, axis=-1)
            return name, value
        outputs = [name, "", "", f"{name}.sum"]
        inputs = [value, total, scale]
        self._node("SkipSimplifiedLayerNormalization", inputs, outputs, "com.microsoft", epsilon=epsilon)
        return name, f"{name}.sum"

    def _keep_last(self, state: str) -> None:
        """Cut the states to the last `num_logits_to_keep`; a start of -0 keeps all."""
        self._node("Neg", [_LOGITS_KEPT], ["start"])
        self._node("Slice", [state, "start", "end", "axis"], ["kept"])

    def _project(self, value: str, name: str, weights: Mapping[str, NDArray[np.float32]]) -> str:
        product = self._multiply(value, f"{name}.weight", weights, f"{name}.product")
        if f"{name}.bias" not in weights:
            return product
        bias = self._constant(f"{name}.bias", weights[f"{name}.bias"].astype(self._float))
        self._node("Add", [product, bias], [name])
        return name

    def _multiply(self, value: str, name: str, weights: Mapping[str, NDArray[np.float32]], product: str) -> str:
        outputs, inputs = weights[name].shape
        if f"{name}.numbers" not in self._constants:
            self._quantise(name, weights[name])
        bits = bits_of(name, self._dtype)
        settings = {"N": outputs, "K": inputs, "bits": bits, "block_size": BLOCK, "accuracy_level": _WHOLE_PRECISION}
        stored = [value, f"{name}.numbers", f"{name}.scales"]
        self._node("MatMulNBits", stored, [product], "com.microsoft", **settings)
        return product

    def _quantise(self, name: str, matrix: NDArray[np.float32]) -> None:
        blocks = to_blocks(matrix, bits_of(name, self._dtype))
        self._constant(f"{name}.numbers", blocks.numbers)
        self._constant(f"{name}.scales", blocks.scales.astype(self._float))

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def _node(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **settings: float
    ) -> None:
        self._nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **settings))


def _layer(number: int) -> str:
    return f"model.layers.{number}"


BLOCK = 32
"""Numbers of a row that share a scale."""
_SHRINK = np.linspace(1.0, 0.7, 7, dtype=np.float32)
"""Factors tried for the scale of a block in 4 bits: clipping its largest number can lower the error of the others."""
_ROWS_AT_ONCE = 4096
"""Rows that are rounded at once, which limits memory."""


class Blocks(NamedTuple):
    """`numbers` [rows, blocks, 32 * bits / 8] and `scales` [rows, blocks]: a number n stands for scale (n - 2^(bits-1)).

    In 4 bits, the first of two numbers is in the lower half of a byte.
    """

    numbers: NDArray[np.uint8]
    scales: NDArray[np.float32]


def to_blocks(matrix: NDArray[np.float32], bits: int) -> Blocks:
    """Round a matrix [rows, width] to 4 or 8 bits; the last block of each row is filled with zeros."""
    parts = [_round_rows(matrix[start : start + _ROWS_AT_ONCE], bits) for start in range(0, len(matrix), _ROWS_AT_ONCE)]
    return Blocks(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def from_blocks(blocks: Blocks, bits: int, width: int) -> NDArray[np.float32]:
    """Return the matrix [rows, width] that rounded blocks stand for."""
    numbers, scales = blocks
    if bits == 4:
        numbers = np.stack([numbers & 15, numbers >> 4], -1).reshape(*scales.shape, BLOCK)
    stood = (numbers.astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]
    matrix: NDArray[np.float32] = stood.reshape(len(scales), -1)[:, :width]
    return np.ascontiguousarray(matrix)


def _round_rows(matrix: NDArray[np.float32], bits: int) -> Blocks:
    rows, width = matrix.shape
    blocks = np.pad(matrix, ((0, 0), (0, -width % BLOCK))).reshape(rows, -1, BLOCK)
    if bits == 8:
        scales = np.abs(blocks).max(-1) / 127
        return Blocks(_numbers(blocks, scales, 8), scales.astype(np.float32))
    scales = _best_scales(blocks)
    numbers = _numbers(blocks, scales, 4)
    return Blocks((numbers[..., ::2] | numbers[..., 1::2] << 4).astype(np.uint8), scales)


def _best_scales(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scales of least squared error among those that give the number of greatest size -8, and smaller ones."""
    greatest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    best, least = greatest / -8, np.full(greatest.shape, np.inf, np.float32)
    for factor in _SHRINK:
        scales = greatest / -8 * factor
        rounded = (_numbers(blocks, scales, 4).astype(np.float32) - 8) * scales[..., None]
        error = np.square(rounded - blocks).sum(-1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best.astype(np.float32)


def _numbers(blocks: NDArray[np.float32], scales: NDArray[np.float32], bits: int) -> NDArray[np.uint8]:
    zero = 2 ** (bits - 1)
    numbers: NDArray[np.float32] = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None]) + zero
    return numbers.clip(0, 2 * zero - 1).astype(np.uint8)
