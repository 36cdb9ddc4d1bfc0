"""Write a student as a GGUF file of a type, and its importance matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    from kdtool_exporter_gguf._mixes import Mix
    from kdtool_exporter_gguf._prepared import Prepared

__all__ = ["write_quantised", "write_typed"]


def write_quantised(run: kdtool.RunInfo, student: TransformersModel, prepared: Prepared, config: GGUFConfig) -> Path:
    """Write `<run>-<type>.gguf` below the run's folder, with `<run>-imatrix.gguf` if text was calibrated on.

    Raises:
        StorageError: a file cannot be written; none is left.
    """
    importance = prepared.importance or {}
    name = run.published_name
    file, beside = run.folder / f"{name}-{config.type}.gguf", run.folder / f"{name}-imatrix.gguf"
    try:
        write_typed(student, file, config.type, importance, config.threads, name=name, licences=run.licences)
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
    threads: int | None,
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
        return encode(values, stored, importance.get(name), threads), stored

    binding = dict.fromkeys(licensed.terms.licence for licensed in licences if licensed.transfers)
    licence = " AND ".join(binding)
    write_gguf(student, file, licence=licence, name=name, file_type=FILE_TYPES[kind], encode=encode_tensor)
