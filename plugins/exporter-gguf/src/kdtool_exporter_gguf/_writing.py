"""Write a student as a GGUF file of a type, and its importance matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool
from gguf import GGMLQuantizationType
from kdtool_transformers import TransformersModel
from numpy.typing import NDArray
from torch import Tensor

from kdtool_exporter_gguf._importance import write_importance
from kdtool_exporter_gguf._quantise import encode
from kdtool_exporter_gguf._tensor_types import FILE_TYPES, ModelShape, tensor_type
from kdtool_exporter_gguf.gguf_file import write_gguf

if TYPE_CHECKING:
    from kdtool_exporter_gguf._config import GGUFConfig
    from kdtool_exporter_gguf._prepared import Prepared

__all__ = ["write_quantised"]


def write_quantised(run: kdtool.RunInfo, student: TransformersModel, prepared: Prepared, config: GGUFConfig) -> Path:
    """Write `<run>-<type>.gguf` below the run's folder, with `<run>-imatrix.gguf` if text was calibrated on.

    Raises:
        StorageError: a file cannot be written; none is left.
    """
    shape = ModelShape.of(student.model.config)
    importance = prepared.importance or {}

    def encode_tensor(name: str, tensor: Tensor) -> tuple[NDArray[Any], GGMLQuantizationType]:
        kind = tensor_type(config.type, name, tuple(tensor.shape), shape, weighted=bool(importance))
        values = tensor.detach().float().cpu().contiguous().numpy()
        return encode(values, kind, importance.get(name), config.threads), kind

    name = run.published_name
    file, beside = run.folder / f"{name}-{config.type}.gguf", run.folder / f"{name}-imatrix.gguf"
    binding = dict.fromkeys(licensed.terms.licence for licensed in run.licences if licensed.transfers)
    try:
        write_gguf(
            student,
            file,
            licence=" AND ".join(binding),
            name=name,
            file_type=FILE_TYPES[config.type],
            encode=encode_tensor,
        )
        if prepared.calibrated:
            write_importance(importance, prepared.calibrated, f"{name}: training text", beside)
    except OSError as error:
        file.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)
        raise kdtool.StorageError(f"{file} cannot be written: {error}; free space there, and run again") from error
    return file
