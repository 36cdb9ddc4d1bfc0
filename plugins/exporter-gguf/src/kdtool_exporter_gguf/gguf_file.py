"""Models as GGUF files, for llama.cpp and what reads its format."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf.quants import quantize
from kdtool_transformers import TransformersModel, TransformersTokenizer
from torch import Tensor

from kdtool_exporter_gguf._architectures import add_architecture, gguf_tensors, require_architecture, writer_of
from kdtool_exporter_gguf._pre_tokenizer import name_of_splitting
from kdtool_exporter_gguf._vocabulary import GGUFVocabulary

__all__ = ["require_gguf", "write_gguf"]


def write_gguf(
    source: TransformersModel,
    file: Path,
    *,
    dtype: Literal["f32", "f16", "bf16", "q8_0"] = "f32",
    pre: str = "",
    licence: str = "apache-2.0",
    name: str = "",
    file_type: gguf.LlamaFileType | None = None,
    encode: Callable[[str, Tensor], tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]] | None = None,
) -> Path:
    """Write a model as a GGUF file, and return its path.

    Args:
        source: the model, of a class that `require_gguf` accepts.
        file: where to.
        dtype: what matrices are stored in; q8_0 is blocks of 32 numbers in 8 bits with a scale, and a matrix whose rows
            are not a multiple of 32 is then stored in f16. Vectors stay in f32.
        pre: llama.cpp's name for how the tokenizer splits text into words. "" finds it.
        licence: the licence to record in the file ("" for none).
        name: the model's name to record ("" for none).
        file_type: the mix of types to record.
        encode: returns a tensor's stored values and their type, given its name in the file. None stores all in `dtype`.

    Raises:
        UsageError: the model or its tokenizer is of another kind, which this cannot write.
    """
    config = source.model.config
    require_gguf(config, source.tokenizer)
    writer = writer_of(config, file)
    if name:
        writer.add_name(name)
    if licence:
        writer.add_license(licence)
    if file_type is not None:
        writer.add_file_type(file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_architecture(writer, config)
    GGUFVocabulary.of(source.tokenizer, config.vocab_size).add_to(writer, pre or name_of_splitting(source.tokenizer))
    for tensor_name, tensor in gguf_tensors(source.model):
        values, kind = encode(tensor_name, tensor) if encode else _encode(tensor, dtype)
        writer.add_tensor(tensor_name, values, raw_dtype=kind)
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
        UsageError: llama.cpp lacks the class or a setting of it, its tokenizer is another kind than llama.cpp's or changes
            text before it splits it, or the vocabulary has no room for what the format wants.
    """
    require_architecture(config)
    GGUFVocabulary.of(tokenizer, config.vocab_size)
