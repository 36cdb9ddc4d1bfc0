"""`--quantize`: a GGUF file of one of the models, made once and kept."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import kdtool

__all__ = ["quantised_file"]


def quantised_file(models: kdtool.Models, name: str, kind: str, say: Callable[[str], object]) -> Path:
    """Return the GGUF file of a model in the type `kind`, and write it if there is none since its weights changed.

    For the student this is the run's exported file of the type, if there is one; else `exports/RUN-MODEL-TYPE.gguf` in the
    run's folder. The file of a model that belongs to no run is next to its folder.

    Raises:
        UsageError: the exporter is not installed, the type is unknown, or the model is not a folder that llama.cpp can run.
        StorageError: the file cannot be written.
    """
    exporter, subject = _exporter(kind), models.subjects.get(name)
    if subject is None or subject.path is None or not subject.path.is_dir():
        raise kdtool.UsageError(
            f"--quantize {kind}: {name} is not a model's folder on this machine; name a student, or a folder"
        )
    results, folder = models.results, subject.path.absolute()
    if results is None:
        file = folder.with_name(f"{folder.name}-{kind}.gguf")
    else:
        file = Path(results.folder) / "exports" / f"{results.name}-{name}-{kind}.gguf"
        for artifact in models.subjects.values() if subject.role == "student" else ():
            if artifact.role == "artifact" and artifact.path and artifact.path.name.endswith(f"-{kind}.gguf"):
                return artifact.path
    if not file.is_file() or file.stat().st_mtime < _last_change(folder):
        say(f"writing {file} …")
        exporter.convert(folder, file, () if results is None or subject.role == "teacher" else results.licences)
    return file


def _exporter(kind: str) -> Any:
    """Return the exporter `gguf` for a type, which another package registers.

    Raises:
        UsageError: it is not installed, or the type is unknown.
    """
    registered = list(entry_points(group="kdtool.exporters", name="gguf"))
    if not registered:
        raise kdtool.UsageError("--quantize needs the exporter gguf, which is not installed; add kdtool-exporter-gguf")
    exporter = registered[0].load()
    types = get_args(exporter.Config.model_fields["type"].annotation)
    if kind not in types:
        raise kdtool.UsageError(f"--quantize {kind}: unknown type; expected one of {', '.join(types)}")
    return exporter(exporter.Config(type=kind))


def _last_change(folder: Path) -> float:
    """Return the time at which the weights in a folder changed last; 0 without weights."""
    return max((file.stat().st_mtime for file in folder.glob("*.safetensors")), default=0.0)
