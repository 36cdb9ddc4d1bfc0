"""Weights of a graph in 8 bits: blocks of 64 numbers of a row share a scale, for ONNX Runtime's `MatMulNBits`.

One scale for a whole channel, and one for all activations of a call (`quantize_dynamic`), moves SmolLM2's logits by two
thirds of their standard deviation. Blocks with activations in float32 move them by 0.06, and the most likely token of code
is the same in 98 of 100 places; with activations in 8 bits, by blocks too, by 0.08, and in 96.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["BLOCK", "quantise", "to_blocks"]

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
