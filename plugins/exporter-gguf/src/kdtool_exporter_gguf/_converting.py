"""Convert a model's folder to a GGUF file outside a run, for use on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import kdtool

from kdtool_exporter_gguf._mixes import Mix

__all__ = ["convert"]


def convert(model: Path, file: Path, kind: Mix, licences: Iterable[kdtool.Licensed]) -> None:
    """Write the model in a folder as a GGUF file of the type `kind`; see `GGUF.convert`."""
    from kdtool_torch import widen
    from kdtool_transformers import open_model

    from kdtool_exporter_gguf._checking import require_readable
    from kdtool_exporter_gguf._writing import write_typed
    from kdtool_exporter_gguf.gguf_file import require_gguf

    student = open_model(model, offline=True)
    config, tokenizer = student.model.config, student.tokenizer
    require_gguf(config, tokenizer)
    require_readable(config, tokenizer)
    widen(student.model)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent, prefix=f".{file.stem}-") as folder:
            unfinished = Path(folder) / file.name
            write_typed(student, unfinished, kind, {}, None, name=file.stem, licences=licences)
            unfinished.replace(file)
    except OSError as error:
        raise kdtool.StorageError(f"{file} cannot be written: {error}; free space there, and try again") from error
