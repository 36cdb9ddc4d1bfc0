"""The record of a run, `results.json`: written at the end, and read again by other commands."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kdtool._assembly.built import Built
from kdtool._contract.reporting import ComponentRecord, Results
from kdtool._errors import StorageError, UsageError
from kdtool._store.atomic_files import read_sealed, write_sealed
from kdtool._store.layout import RESULTS

PLAIN: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="strings"))
"""Writes infinite numbers as "Infinity", which is read as that number again; JSON has none."""
_ADAPTER: TypeAdapter[Results] = TypeAdapter(Results)
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "pluggy", "pydantic")


def write_results(results: Results) -> Path:
    """Write `results.json` into the run's folder; paths inside the folder are written relative to it."""
    path = results.folder / RESULTS
    plain = _relative(_ADAPTER.dump_python(results), results.folder)
    write_sealed(path, PLAIN.dump_json(plain, indent=1).decode())
    return path


def read_results(folder: Path) -> Results:
    """Read a run's results.

    Raises:
        UsageError: the folder holds no finished run.
        StorageError: the file is damaged.
    """
    path = folder / RESULTS
    remedy = "Run the recipe again to write it anew; what is finished is reused"
    try:
        return replace(_ADAPTER.validate_json(read_sealed(path, remedy)), folder=folder)
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no finished run: there is no {RESULTS} in it") from error
    except ValidationError as error:
        raise StorageError(f"{path} cannot be read: {error.error_count()} entries are not as written") from error


def component_record(built: Built) -> ComponentRecord:
    """Return the record of a component; its config includes defaults."""
    owner, config = built.owner, built.written.model_dump(mode="json")
    source = built.loaded.source
    use = f"{source}:{owner.use.rpartition(':')[2]}" if source else owner.use
    return ComponentRecord(owner.name, owner.kind, use, owner.distribution, owner.version, config)


def environment() -> Mapping[str, str]:
    """Return the surroundings that a run's numbers depend on: Python, system, processor, libraries."""
    found = {
        "kdtool": version("kdtool"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": str(os.cpu_count() or ""),
    }
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return value.relative_to(folder).as_posix() if value.is_relative_to(folder) else str(value)
    if isinstance(value, Mapping):
        return {key: _relative(item, folder) for key, item in value.items()}
    return [_relative(item, folder) for item in value] if isinstance(value, list | tuple) else value
