"""ONNX graphs of causal language models with a key-value cache, written by `transformers.exporters`, and their INT8 form.

In INT8, blocks of 64 numbers of a row share a scale, for ONNX Runtime's `MatMulNBits`. One scale for a whole channel,
and one for all activations of a call (`quantize_dynamic`), moves SmolLM2's logits by two thirds of their standard
deviation. Blocks with activations in float32 move them by 0.06, and the most likely token of code is the same in 98 of
100 places; with activations in 8 bits, also by blocks, by 0.08, and in 96.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

_NOISY = ("torch.onnx", "transformers.exporters", "onnxscript", "onnx_ir", "root")


def write_graph(model: Any, folder: Path, *, int8: bool) -> None:
    """Write `model.onnx`, its weights next to it, config.json and export.json into a folder.

    The graph reads any number of tokens of any number of texts after a cache, which may be empty: it serves the prompt and
    every token after it. `attention_mask` covers cache and tokens. `int8`: matrices of products, and an embedding that is
    one of them, have 8 bits.
    """
    from transformers.exporters import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    inputs = _sample(model)
    config = OnnxConfig(
        dynamic=True, dynamic_shapes={name: _varying(value) for name, value in inputs.items()}, ort_fusions="cpu"
    )
    with _quiet():
        exported = OnnxExporter().export(model.eval(), inputs, config)
    if int8:
        quantise(exported.components["model"].program.graph)
    exported.generation_config = model.generation_config
    exported.save_pretrained(folder)


def _sample(model: Any) -> dict[str, Any]:
    """Return the inputs of a step of two tokens after a cache, for two texts; one of them is padded."""
    from transformers.exporters.utils import decompose_for_generation

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(14).reshape(2, 7) % vocabulary
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    _, inputs = decompose_for_generation(model, {"input_ids": ids, "attention_mask": mask}, multi_token_decode=True)[
        "decode"
    ]
    return {name: value for name, value in inputs.items() if name not in {"use_cache", "return_dict"}}


def _varying(value: Any) -> Any:
    """Name the dimensions that vary: texts and tokens, and of keys and values texts and cached tokens.

    With these named, the rest is fixed, and tracing takes a fraction of the time.
    """
    varies = torch.export.Dim.AUTO
    if isinstance(value, Tensor):
        return {0: varies, 1: varies}
    return [{0: varies, 2: varies} for _ in range(2 * len(value.layers))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out notes of the libraries on their progress, versions and inner workings."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


BLOCK = 64
"""Numbers that share a scale."""
_ZERO = 128
"""The stored number that stands for 0."""
_IN_FLOAT32 = 1
"""The `accuracy_level` that keeps activations in float32."""


def quantise(graph: ir.Graph) -> None:
    """Store the matrices of all products in 8 bits, and an embedding that is a product's matrix, too, with it."""
    stored: dict[tuple[str, bool], tuple[ir.Value, ir.Value]] = {}
    for node in list(graph):
        matrix = _matrix(node)
        if matrix is None:
            continue
        value, by_rows = matrix
        key = (str(value.name), by_rows)
        if key not in stored:
            stored[key] = _store(graph, value, by_rows)
        _replace(graph, node, _product(node, value, by_rows, *stored[key]))
    tables = {name: parts for (name, by_rows), parts in stored.items() if by_rows}
    for node in list(graph):
        if node.op_type == "Gather" and node.inputs[0] is not None and node.inputs[0].name in tables:
            _replace(graph, node, _rows(graph, node, *tables[str(node.inputs[0].name)]))
    for name, _ in stored:
        if name in graph.initializers and not graph.initializers[name].uses():
            del graph.initializers[name]


def to_blocks(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return numbers [rows, blocks, 64] with 128 for 0, and scales [rows, blocks]; a last block is filled with 0.

    A number n of a block with scale s stands for s (n - 128).
    """
    rows, width = matrix.shape
    padded = np.pad(matrix, ((0, 0), (0, -width % BLOCK))).reshape(rows, -1, BLOCK)
    scales = np.abs(padded).max(-1) / 127
    numbers = np.rint(padded / np.where(scales == 0, 1, scales)[..., None]) + _ZERO
    return numbers.astype(np.uint8), scales.astype(np.float32)


def _matrix(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """Return the constant matrix that a product multiplies by, and whether its rows are the outputs; None for others."""
    if node.op_type not in {"MatMul", "FusedMatMul"} or len(node.inputs) < 2:
        return None
    value = node.inputs[1]
    if value is None or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    settings = {name: attribute.value for name, attribute in node.attributes.items()}
    by_rows = bool(settings.pop("transB", 0))
    plain = all(settings.get(name, 0) == 0 for name in ("transA", "transBatchA", "transBatchB"))
    return (value, by_rows) if plain and settings.get("alpha", 1.0) == 1.0 else None


def _store(graph: ir.Graph, value: ir.Value, by_rows: bool) -> tuple[ir.Value, ir.Value]:
    assert value.const_value is not None  # noqa: S101 - of `_matrix`
    matrix = value.const_value.numpy()
    numbers, scales = to_blocks(matrix if by_rows else np.ascontiguousarray(matrix.T))
    return _constant(graph, f"{value.name}.int8", numbers), _constant(graph, f"{value.name}.scales", scales)


def _constant(graph: ir.Graph, name: str, values: NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _product(node: ir.Node, value: ir.Value, by_rows: bool, numbers: ir.Value, scales: ir.Value) -> list[ir.Node]:
    assert value.const_value is not None  # noqa: S101 - of `_matrix`
    shape = value.const_value.numpy().shape
    outputs, inputs = shape if by_rows else shape[::-1]
    attributes = {"K": int(inputs), "N": int(outputs), "bits": 8, "block_size": BLOCK, "accuracy_level": _IN_FLOAT32}
    return [ir.node("MatMulNBits", [node.inputs[0], numbers, scales], attributes, domain="com.microsoft")]


def _rows(graph: ir.Graph, node: ir.Node, numbers: ir.Value, scales: ir.Value) -> list[ir.Node]:
    """Return nodes that take rows of a table in 8 bits: [B, T] to [B, T, width]."""
    table, ids = node.inputs
    assert table is not None and table.const_value is not None  # noqa: S101, PT018 - of `_matrix`
    width, name = table.const_value.numpy().shape[1], f"{table.name}.rows"
    zero = _constant(graph, f"{name}.zero", np.array(_ZERO, np.float32))
    last = _constant(graph, f"{name}.last", np.array([-1], np.int64))
    shape = _constant(graph, f"{name}.shape", np.array([0, 0, -1], np.int64))
    begin, end = (_constant(graph, f"{name}.{at}", np.array([at], np.int64)) for at in (0, width))
    taken = ir.node("Gather", [numbers, ids])
    cast = ir.node("Cast", taken.outputs, {"to": ir.DataType.FLOAT})
    centred = ir.node("Sub", [cast.outputs[0], zero])
    scale = ir.node("Gather", [scales, ids])
    wide = ir.node("Unsqueeze", [scale.outputs[0], last])
    scaled = ir.node("Mul", [centred.outputs[0], wide.outputs[0]])
    flat = ir.node("Reshape", [scaled.outputs[0], shape])
    cut = ir.node("Slice", [flat.outputs[0], begin, end, last])
    return [taken, cast, centred, scale, wide, scaled, flat, cut]


def _replace(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Replace a node by others; the last one produces its output."""
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, nodes[-1].outputs)
