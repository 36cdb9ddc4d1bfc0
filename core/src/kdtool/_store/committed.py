"""Files of an unfinished folder from which a killed process may go on: each recorded by digest, all others discarded.

Whoever writes a file that is worth keeping calls `commit` once it is whole; the engine calls `discard_uncommitted` before it
goes on with the folder of a killed process. So a stage finds what was committed, byte by byte as it was, and nothing else.
Beside the files lies the record, a line of JSON for each call, by process of a run: `.committed-0`. A file that grows
line by line is committed once, and each of its lines carries its own digest (`seal_line`, `unseal_line`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "KEPT",
    "RECORD",
    "commit",
    "discard_uncommitted",
    "entry_of",
    "problem_of",
    "process_number",
    "record_files",
    "remember",
    "seal_line",
    "sync",
    "uncommit",
    "unseal_line",
]

RECORD = ".committed-"
"""The beginning of the names of the files that say what is committed."""
KEPT = ".seconds"
"""The beginning of the names of the engine's own files, which are neither committed nor discarded."""
_TAIL = (b', "sha256": "', b'"}\n')
_digests: dict[tuple[str, int, int], str] = {}
"""SHA-256 by path, size and time of change of the files that this process has hashed: it need not hash them again."""


def commit(folder: Path, *paths: Path, growing: bool = False, pending: Mapping[Path, Path] | None = None) -> None:
    """Record files below `folder` as whole: after a kill they are there again, or are reported and made again.

    Those committed in one call stay together: where one of them is damaged, all of them are discarded. A file that replaces
    one committed before is committed while it is still `pending`, so that at any moment one of the two counts.

    Args:
        folder: where the record is kept; `run.folder`, or a folder below it.
        paths: files, or folders with all files in them. They are synced to disk first.
        growing: they are written line by line, each line by `seal_line`; then nothing but their names is recorded.
        pending: for files of `paths` that are not there yet, those that the caller renames to them afterwards.

    Raises:
        FileNotFoundError: one of `paths` is not there, nor pending or growing.
    """
    now = pending or {}
    files = sorted({file for path in paths for file in ([path] if growing or path in now else _files(path))})
    names = [file.relative_to(folder).as_posix() for file in files]
    if growing:
        _append(folder, {"growing": names})
        return
    there = [now.get(file, file) for file in files]
    for place in (*there, *sorted({place for file in there for place in _between(file, folder)})):
        sync(place)
    entries = [entry_of(place) for place in there]
    for file, place, entry in zip(files, there, entries, strict=True):
        remember(file, entry, place)
    _append(folder, {"files": dict(zip(names, entries, strict=True))})


def uncommit(folder: Path, *paths: Path) -> None:
    """Record that files below `folder`, whoever committed them, are about to be deleted."""
    _append(folder, {"gone": [path.relative_to(folder).as_posix() for path in paths]})


def discard_uncommitted(folder: Path, say: Callable[[str], None]) -> None:
    """Delete all files below `folder` that are not committed, or not as they were when they were; `say` names the latter."""
    kept: set[Path] = set()
    records = {path: _read(path) for path in record_files(folder)}
    for path, record in records.items():
        gone = {other.parent / name for other in records if other != path for name in records[other].gone}
        groups = list(_whole(path.parent, record.groups, gone, say))
        growing = [name for name in record.growing if (path.parent / name).is_file()]
        kept |= {path.parent / name for name in (*(name for group in groups for name in group), *growing)}
        lines = [*(seal_line({"files": group}) for group in groups), seal_line({"growing": growing})]
        beside = path.with_name(f"{path.name}.writing")
        beside.write_bytes(b"".join(lines if groups or growing else ()))
        beside.replace(path)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept and not _is_record(path) and not path.name.startswith(KEPT):
            path.unlink()


def record_files(folder: Path) -> list[Path]:
    """Return the files at any depth below `folder` that say what is committed."""
    return sorted(path for path in folder.rglob(f"{RECORD}*") if _is_record(path))


def problem_of(file: Path, entry: Mapping[str, Any], *, hashing: bool = True) -> str | None:
    """Return what is wrong with a file that had this size and SHA-256, None for nothing; hashed once in a process.

    Hashing takes a second for about 2 GB. A file whose size or time of change differs is hashed again.
    """
    try:
        status = file.stat()
        if status.st_size != entry["bytes"]:
            return f"has {status.st_size} bytes instead of {entry['bytes']}"
        if hashing and entry_of(file)["sha256"] != entry["sha256"]:
            return "is not what was written: its SHA-256 is another"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def entry_of(file: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file; hashed once in a process, and again where size or time of change differ."""
    key = _key(file, file.stat())
    if key not in _digests:
        _digests[key] = _hash(file)
    return {"bytes": key[1], "sha256": _digests[key]}


def remember(file: Path, entry: Mapping[str, Any], now: Path) -> None:
    """Remember the entry of a file that is in the place `now` and is, or will be, renamed to `file`."""
    _digests[_key(file, now.stat())] = entry["sha256"]


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _key(file: Path, status: os.stat_result) -> tuple[str, int, int]:
    return str(file), status.st_size, status.st_mtime_ns


def process_number() -> str:
    """Return which process of a run this is, as torchrun numbers them."""
    return os.environ.get("RANK", "0")


def seal_line(content: Mapping[str, Any]) -> bytes:
    """Return a line of JSON whose last entry, `sha256`, is the digest of all before it. `content` is not empty."""
    body = json.dumps(content).encode("ascii")
    return body[:-1] + _TAIL[0] + hashlib.sha256(body).hexdigest().encode() + _TAIL[1]


def unseal_line(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line, None where it is not one that `seal_line` made, to its last byte."""
    body = line[: -64 - sum(map(len, _TAIL))] + b"}"
    if line != body[:-1] + _TAIL[0] + hashlib.sha256(body).hexdigest().encode() + _TAIL[1]:
        return None
    content: dict[str, Any] = json.loads(body)
    return content


@dataclass
class _Record:
    """Committed files: those that belong together with their sizes and digests, and files that grow.

    `gone` is what was given up at any time. It may have been committed by other processes, before or afterwards.
    """

    groups: list[dict[str, Any]] = field(default_factory=list)
    growing: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


def _read(path: Path) -> _Record:
    """Read a record; a damaged line counts as if it had not been written."""
    record = _Record()
    for content in filter(None, map(unseal_line, path.read_bytes().splitlines(keepends=True))):
        gone = content.get("gone", ())
        record.gone += gone
        record.groups = [group for group in record.groups if not _names_any(group, gone)]
        record.growing = [name for name in record.growing if not _names_any([name], gone)]
        if "files" in content:
            record.groups.append(content["files"])
        record.growing += [name for name in content.get("growing", ()) if name not in record.growing]
    return record


def _names_any(group: Iterable[str], paths: Iterable[str]) -> bool:
    return any(name == path or name.startswith(f"{path}/") for name in group for path in paths)


def _whole(
    folder: Path, groups: Sequence[Mapping[str, Any]], gone: Collection[Path], say: Callable[[str], None]
) -> Iterator[Mapping[str, Any]]:
    """Yield the groups whose files are as they were, each without what a later one has; `say` names what is damaged.

    `gone` is what other processes gave up: it may lie there in parts, which need not be said.
    """
    taken: set[str] = set()
    broken: list[tuple[Mapping[str, Any], str]] = []
    for whole in reversed(groups):
        group = {name: entry for name, entry in whole.items() if name not in taken}
        found = ((name, problem_of(folder / name, entry)) for name, entry in group.items())
        problem = next((f"{name} {what}" for name, what in found if what), "")
        if problem:
            broken.append((whole, problem))
        elif group:
            taken |= group.keys()
            yield group
    for whole, problem in broken:
        given_up = any((folder / name).is_relative_to(place) for name in whole for place in gone)
        if not given_up and not taken.issuperset(whole):
            more = f", with {len(whole) - 1} files that belong to it" if len(whole) > 1 else ""
            say(f"{folder}{os.sep}{problem}: it is made again{more}")


def _append(folder: Path, content: Mapping[str, Any]) -> None:
    path = folder / f"{RECORD}{process_number()}"
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) not in {b"", b"\n"}:  # a line that a killed process left half written
            file.write(b"\n")
        file.write(seal_line(content))
        file.flush()
        os.fsync(file.fileno())


def _files(place: Path) -> Iterator[Path]:
    """Yield a file itself, or all files below a folder."""
    if not place.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
    if place.is_file():
        yield place
    yield from (path for path in place.rglob("*") if path.is_file() and not _is_record(path))


def _between(file: Path, folder: Path) -> Iterator[Path]:
    """Yield the folders from a file's own up to `folder`."""
    for parent in file.parents:
        yield parent
        if parent == folder:
            return


def _is_record(path: Path) -> bool:
    return path.name.startswith(RECORD) and path.name.removeprefix(RECORD).isdigit()


def sync(path: Path) -> None:
    """Force a file or folder to disk. Windows cannot sync folders; there a rename is journalled anyway."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
