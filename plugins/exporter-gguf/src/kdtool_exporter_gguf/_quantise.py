"""Quantisation of matrices by llama.cpp's own code, `ggml_quantize_chunk` in the library of the xllamacpp wheel."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import kdtool
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

__all__ = ["encode", "round_values"]

_IN_NUMPY = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
_ROWS = 512
"""Rows that one call quantises: calls run side by side, and every row is quantised by itself."""


def encode(
    values: NDArray[np.float32],
    kind: GGMLQuantizationType,
    importance: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Return the stored form of a tensor.

    Args:
        values: the weights; rows are a multiple of the type's block.
        kind: the type.
        importance: a weight for each column's squared error. None weighs by the weights' own sizes.
        threads: number of threads. None: as many as PyTorch.

    Raises:
        PluginError: the weights are not finite, or llama.cpp wrote another number of bytes.
    """
    if not np.isfinite(values).all():
        raise kdtool.PluginError(
            "gguf: the student's weights contain infinities or NaN; train it again at a lower rate"
        )
    if kind in _IN_NUMPY:
        stored: NDArray[Any] = quantize(values, kind)
        return stored
    library = _library()
    rows, width = values.shape
    block, size = GGML_QUANT_SIZES[kind]
    encoded = np.zeros((rows, width // block * size), dtype=np.uint8)
    values = np.ascontiguousarray(values)
    weights = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    pointer = None if weights is None else weights.ctypes.data

    def quantise(first: int) -> int:
        count = min(_ROWS, rows - first)
        ends = values.ctypes.data, encoded.ctypes.data
        return int(library.ggml_quantize_chunk(kind.value, *ends, first * width, count, width, pointer))

    library.ggml_quantize_init(kind.value)  # builds tables, which threads share
    with ThreadPoolExecutor(threads or torch.get_num_threads()) as pool:
        written = sum(pool.map(quantise, range(0, rows, _ROWS)))
    if written != encoded.nbytes:
        raise kdtool.PluginError(
            f"gguf: llama.cpp wrote {written} bytes of {kind.name}, not {encoded.nbytes}; "
            "install another version of xllamacpp"
        )
    return encoded


def round_values(
    values: NDArray[np.float32], kind: GGMLQuantizationType, importance: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return the weights that the stored form of a tensor stands for; arguments and errors as in `encode`."""
    rounded: NDArray[np.float32] = dequantize(encode(values, kind, importance), kind)
    return rounded


@cache
def _library() -> ctypes.CDLL:
    from xllamacpp import xllamacpp

    library = ctypes.CDLL(xllamacpp.__file__)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return library
