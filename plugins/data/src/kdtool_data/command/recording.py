"""Files of a recording of signals: rows, tokens, sizes, and whether they are undamaged.

A complete artefact has a `manifest.json` with size and SHA-256 of every file, whichever cache wrote it. The numbers of
rows and tokens, and the complete parts of an interrupted recording, come from the manifests of `kdtool_torch`. They are
unknown for caches that do not use it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import kdtool

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Damage:
    """A damaged file, and what is wrong with it."""

    file: str
    problem: str


@dataclass(frozen=True)
class Recording:
    """Recorded signals; None stands for facts that are unknown for this cache.

    `kinds`, `layers` and `temperature` describe the request. `row_length` is in tokens, `recorded` the number of complete
    rows, `tokens` that of their labelled positions. `bytes_a_token` excludes data stored once, such as a head.
    """

    signals: str
    whole: bool
    folder: str
    cache: kdtool.ComponentRecord
    teacher: kdtool.ComponentRecord
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    temperature: float
    rows: int
    row_length: int
    recorded: int | None
    tokens: int | None
    files: int
    bytes: int
    bytes_a_token: float | None
    checked: Literal["sizes", "hashes"]
    damaged: tuple[Damage, ...]

    def require_row(self, index: int) -> None:
        """Refuse a row that does not exist.

        Raises:
            UsageError: the index is out of range, or the row is not recorded yet.
        """
        if index >= self.rows:
            raise kdtool.UsageError(f"--row {index} is out of range; choose from 0 to {self.rows - 1}")
        if self.recorded and index >= self.recorded:
            raise kdtool.UsageError(f"--row {index} is not recorded yet; choose from 0 to {self.recorded - 1}")


def read_recording(name: str, signals: kdtool.RecordedSignals, rows: kdtool.RowSource, *, verify: bool) -> Recording:
    """Read the manifests of recorded signals and check the files; `verify` also checks their hashes.

    Raises:
        StorageError: a manifest is damaged.
    """
    folder = signals.folder
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    whole = (folder / MANIFEST).is_file()
    once, shards = _shards(folder)
    tokens = sum(sum(shard["labels"]) for shard in shards.values()) if once else None
    expected = _files(folder) if whole else {**once, **shards}
    problems = ((file, _problem(folder / file, facts, verify=verify)) for file, facts in expected.items())
    return Recording(
        signals=name,
        whole=whole,
        folder=str(folder),
        cache=signals.cache,
        teacher=signals.teacher,
        kinds=tuple(sorted(signals.want.kinds)),
        layers=signals.want.layers,
        temperature=signals.want.temperature,
        rows=len(rows),
        row_length=rows.length,
        recorded=sum(len(shard["rows"]) for shard in shards.values()) if once else len(rows) if whole else None,
        tokens=tokens,
        files=len(files),
        bytes=sum(files),
        bytes_a_token=sum(shard["bytes"] for shard in shards.values()) / tokens if tokens else None,
        checked="hashes" if verify else "sizes",
        damaged=tuple(Damage(file, problem) for file, problem in problems if problem),
    )


def _shards(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the manifests of `kdtool_torch` by file: of the whole recording, and of the shards; empty for other caches."""
    from kdtool_torch import load_manifests

    once, shards = load_manifests(folder)
    return {"teacher.safetensors": once} if once else {}, {f"{name}.safetensors": each for name, each in shards.items()}


def _files(folder: Path) -> Mapping[str, Any]:
    """Return size and SHA-256 of a complete artefact's files."""
    path = folder / MANIFEST
    try:
        files: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError) as error:
        raise kdtool.StorageError(
            f"{path} is damaged: {error!r}; delete the folder and run again to record the signals"
        ) from error
    return files


def _problem(path: Path, facts: Mapping[str, Any], *, verify: bool) -> str:
    """Return the problem of a file; "" if it is undamaged."""
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            return f"has {size:,} bytes instead of {facts['bytes']:,}"
        if verify:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                    return "has another SHA-256 than its manifest"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""
