"""Quantised GGUF files: the type of each tensor, rounding by llama.cpp's own code, and writing a student in a file type.

Types follow the rules of llama.cpp's `llama-quantize` (src/llama-quant.cpp); the tests compare them with files of that
program. Its rules for mixtures of experts, Falcon and models of 80 layers are left out, since no student is one.
Rounding calls `ggml_quantize_chunk` in the library of the xllamacpp wheel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, get_args

import kdtool
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import dequantize, quantize
from kdtool_transformers import TransformersModel
from numpy.typing import NDArray
from torch import Tensor

from kdtool_export.gguf.calibration import write_importance
from kdtool_export.gguf.files import write_gguf
from kdtool_export.gguf.settings import Mix

if TYPE_CHECKING:
    from kdtool_export.gguf.calibration import Prepared
    from kdtool_export.gguf.settings import GGUFConfig


def write_quantised(run: kdtool.RunInfo, student: TransformersModel, prepared: Prepared, config: GGUFConfig) -> Path:
    """Write `<run>-<type>.gguf` below the run's folder, with `<run>-imatrix.gguf` if text was calibrated on.

    Raises:
        StorageError: a file cannot be written; none is left.
    """
    importance = prepared.importance or {}
    name = run.published_name
    file, beside = run.folder / f"{name}-{config.type}.gguf", run.folder / f"{name}-imatrix.gguf"
    try:
        write_typed(student, file, config.type, importance, name=name, licences=run.licences)
        if prepared.calibrated:
            write_importance(importance, prepared.calibrated, f"{name}: training text", beside)
    except OSError as error:
        file.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)
        raise kdtool.StorageError(f"{file} cannot be written: {error}; free space there, and run again") from error
    return file


def write_typed(
    student: TransformersModel,
    file: Path,
    kind: Mix,
    importance: Mapping[str, NDArray[Any]],
    *,
    name: str,
    licences: Iterable[kdtool.Licensed],
) -> None:
    """Write the weights as the mix `kind` of types, with the licences that bind recipients of the student.

    Raises:
        OSError: the file cannot be written.
    """
    shape = ModelShape.of(student.model.config)

    def encode_tensor(name: str, tensor: Tensor) -> tuple[NDArray[Any], GGMLQuantizationType]:
        stored = tensor_type(kind, name, tuple(tensor.shape), shape, weighted=bool(importance))
        values = tensor.detach().float().cpu().contiguous().numpy()
        return encode(values, stored, importance.get(name)), stored

    binding = dict.fromkeys(licensed.terms.licence for licensed in licences if licensed.transfers)
    licence = " AND ".join(binding)
    write_gguf(student, file, licence=licence, name=name, file_type=FILE_TYPES[kind], encode=encode_tensor)


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
        return _fitting_type(_T.Q6_K if fits and mix != "q8_0" else _T.Q8_0, size[-1])
    _, layer, part, *_ = [*name.split("."), "", ""]
    return _fitting_type(
        _type_in_layer(mix, part, int(layer), model, weighted) or base if layer.isdigit() else base, size[-1]
    )


def stored_bytes(kind: GGMLQuantizationType, size: tuple[int, ...]) -> int:
    """Return the bytes of a tensor of that type and size."""
    weights, stored = GGML_QUANT_SIZES[kind]
    return int(prod(size) * stored // weights)


def _type_in_layer(mix: str, part: str, layer: int, model: ModelShape, weighted: bool) -> GGMLQuantizationType | None:
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


def _fitting_type(kind: GGMLQuantizationType, width: int) -> GGMLQuantizationType:
    """Return a type that stores rows of `width`: this one, its fallback, or F16."""
    for candidate in (kind, _FALLBACKS.get(kind, kind)):
        if width % GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    return _T.F16


_IN_NUMPY = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
_ROWS_PER_CALL = 512
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
        count = min(_ROWS_PER_CALL, rows - first)
        ends = values.ctypes.data, encoded.ctypes.data
        return int(library.ggml_quantize_chunk(kind.value, *ends, first * width, count, width, pointer))

    library.ggml_quantize_init(kind.value)  # builds tables, which threads share
    with ThreadPoolExecutor(threads or torch.get_num_threads()) as pool:
        written = sum(pool.map(quantise, range(0, rows, _ROWS_PER_CALL)))
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
