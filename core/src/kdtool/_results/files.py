"""The record of a run, `results.json`: written at the end, and read again by other commands."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kdtool._assembly.built import Built
from kdtool._contract.reporting import ComponentRecord, Results
from kdtool._errors import StorageError, UsageError
from kdtool._results.places import Places
from kdtool._store.atomic_files import read_sealed, write_sealed
from kdtool._store.layout import GRAPH, RESULTS
from kdtool._text.did_you_mean import did_you_mean

PLAIN: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="strings"))
"""Writes infinite numbers as "Infinity", which is read as that number again; JSON has none."""
_ADAPTER: TypeAdapter[Results] = TypeAdapter(Results)
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "pluggy", "pydantic")


def write_results(results: Results) -> Path:
    """Write `results.json` into the run's folder, with places as in `Places`."""
    path = results.folder / RESULTS
    plain = Places.of(results.folder).hide(_ADAPTER.dump_python(results))
    write_sealed(path, PLAIN.dump_json(plain, indent=1).decode())
    return path


def find_run(run: Path | str, out: Path | str, what: str = "finished run") -> Path:
    """Return the folder of a finished run, given as a folder or by its name below `out`.

    Raises:
        UsageError: the run does not exist; the message calls it `what`, and lists the runs that do.
    """
    for folder in (Path(run), Path(out, run)):
        if (folder / RESULTS).is_file():
            return folder.absolute()
        if (folder / GRAPH).is_file():
            raise UsageError(f"the run {str(run)!r} is not finished; run its recipe again to finish it")
    marked = (path for depth in ("*", "*/*") for path in Path(out).glob(f"{depth}/{RESULTS}"))
    names = {path.parent.relative_to(out).as_posix() for path in marked}
    hint = did_you_mean(str(run), names, what="there are") or "it holds none"
    raise UsageError(f"{str(run)!r} is not a {what}: neither a folder of a run nor a name in {out}; {hint}")


def with_whole_paths(results: Results) -> Results:
    """Return results that were read with absolute paths."""
    plain = map_paths(_ADAPTER.dump_python(results), lambda path: results.folder / path)
    for before, after in zip(results.arms, plain["arms"], strict=True):
        for made, found in zip(before.artifacts, after["artifacts"], strict=True):
            found["how_to_use"] = made.how_to_use.replace(str(made.path), str(found["path"]))
    return _ADAPTER.validate_python(plain)


def read_results(folder: Path) -> Results:
    """Read a run's results; paths below its folder are relative to it.

    Raises:
        UsageError: the folder holds no finished run.
        StorageError: the file is damaged.
    """
    path = folder / RESULTS
    remedy = "Run the recipe again to rewrite it; finished work is reused"
    try:
        results = _ADAPTER.validate_json(read_sealed(path, remedy))
        plain = map_paths(_ADAPTER.dump_python(results), Places.of(folder).find)
        return replace(_ADAPTER.validate_python(plain), folder=folder)
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no finished run: it lacks {RESULTS}") from error
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
    versions = {
        "kdtool": version("kdtool"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": str(os.cpu_count() or ""),
    }
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions


def map_paths(value: Any, change: Callable[[Path], object]) -> Any:
    """Return plain data in which each path is replaced by `change` of it."""
    if isinstance(value, Path):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_paths(item, change) for key, item in value.items()}
    return [map_paths(item, change) for item in value] if isinstance(value, list | tuple) else value
