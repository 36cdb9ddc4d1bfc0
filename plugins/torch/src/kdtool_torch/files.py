"""Large files: the user's cache, folders that are complete or absent, hashes computed once, and tensors in files.

Files get the permissions of the umask; safetensors by itself would make them readable only for their owner.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from torch import Tensor


def cache_folder() -> Path:
    """Return kdtool's folder for models in the user's cache; made when first written to."""
    import platformdirs

    return platformdirs.user_cache_path("kdtool", appauthor=False) / "models"


def write_cached(file: Path, text: str) -> None:
    """Write a file of the cache, completely or not at all. Failures are ignored: the content is computed again later."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".writing")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(text)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink()
            raise


_HASHES = "hashes.json"
_SUMS = "SHA256SUMS"
_compared: set[tuple[str, int, int]] = set()
"""Path, size and time of change of the files of complete folders that this process has compared with their sums."""


def content_hash(file: Path) -> str:
    """Return a file's SHA-256; remembered until its size or time of change differs.

    Raises:
        UsageError: it is missing or not a regular file.
    """
    if not file.is_file():
        raise kdtool.UsageError(f"{file} is missing or not a regular file; expected one: download the model again")
    status = file.stat()
    key = f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    store = cache_folder() / _HASHES
    known = _read_hashes(store)
    if key in known:
        return known[key]
    digest = hash_file(file)
    write_cached(store, json.dumps({**_read_hashes(store), key: digest}))
    return digest


@contextmanager
def complete_folder(target: Path) -> Iterator[Path | None]:
    """Make a folder that is complete or absent, once among processes: yield where to write, or None if it exists.

    Other processes wait. The next one removes leftovers of an exception or a killed process. The folder stores the sums of
    its files, in the format of `sha256sum`. Raises as `is_complete`.
    """
    from filelock import FileLock

    if is_complete(target):
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if is_complete(target):
            yield None
            return
        partial = target.with_name(target.name + ".partial")
        rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            rmtree(partial, ignore_errors=True)
            raise
        _write_sums(partial)
        partial.replace(target)


def is_complete(target: Path) -> bool:
    """Return whether a folder made by `complete_folder` exists. Its files are read once per process.

    Raises:
        StorageError: one of its files is missing or changed.
    """
    if not target.is_dir():
        return False
    if not (target / _SUMS).is_file():
        raise kdtool.StorageError(
            f"the stored folder {target} has no {_SUMS} and may be incomplete. Delete it and run again to recreate it"
        )
    for line in (target / _SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        if not _is_as_written(target / name, expected):
            raise kdtool.StorageError(
                f"the stored file {target / name} is missing or damaged: it does not match {_SUMS} next to it. Delete the "
                f"folder {target} and run again to recreate it"
            )
    return True


def _write_sums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = folder / f"{_SUMS}.writing"
    sums.write_text(
        "".join(f"{hash_file(file)}  {file.relative_to(folder).as_posix()}\n" for file in files), encoding="utf-8"
    )
    sums.replace(folder / _SUMS)


def _is_as_written(file: Path, expected: str) -> bool:
    try:
        status = file.stat()
        known = (str(file), status.st_size, status.st_mtime_ns)
        if known not in _compared:
            if hash_file(file) != expected:
                return False
            _compared.add(known)
    except OSError:
        return False
    return True


def hash_file(file: Path) -> str:
    """Return a file's SHA-256."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def _read_hashes(store: Path) -> dict[str, str]:
    try:
        hashes: Any = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or another process was interrupted while writing: hash again
        return {}
    return hashes if isinstance(hashes, dict) else {}


def write_safetensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as safetensors, for the readers that the umask allows."""
    from safetensors.torch import save_file

    save_file(dict(tensors), file)
    give_usual_mode(file)


def give_usual_mode(file: Path) -> None:
    """Give a file the mode of any new file: safetensors creates files that only their owner can read."""
    probe = file.with_name(f".{file.name}.mode")
    probe.touch()
    file.chmod(probe.stat().st_mode & 0o777)
    probe.unlink()
