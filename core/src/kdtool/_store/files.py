"""Files that survive a kill: whole or absent, sealed, or committed one by one in an unfinished folder.

A folder may come from others, with pipes, devices and links at any name: opening these may never end, or reach a file that
nobody meant to read, send or overwrite. So files are read by `open_regular`, made by `create`, and appended to by
`open_to_append`; JSON of a folder is read by `read_json`.

A sealed file is a JSON object whose last entry, `sha256`, is the digest of every byte before it. Manifests, the graph and
results are sealed.

A stage calls `commit` for each file worth keeping once it is whole; the engine calls `discard_uncommitted` before it resumes
the folder of a killed process. So a stage finds the committed files byte by byte, and nothing else. The record is next to
the files, a line of JSON for each call and a file for each process of a run: `.committed-0`. A file that grows line by line
is committed once, and each of its lines carries its own digest (`seal_line`, `unseal_line`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BufferedReader, BufferedWriter, FileIO
from pathlib import Path
from typing import Any, TypeVar

from kdtool._errors import StorageError

T = TypeVar("T")
LARGEST = 1 << 30
"""Bytes of the largest file that a run writes line by line."""
PRIVATE = 0o600
"""Mode of a file with prompts, answers or money."""


def make_private(folder: Path) -> None:
    """Create a folder that only its owner enters; one that exists stays as it is, so that others can be let in."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def create(path: Path) -> BufferedWriter:
    """Open a new file in place of an old one; a link is not followed, but replaced."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def write_beside(path: Path, content: str | bytes) -> None:
    """Write a small file under a temporary name, sync it, and rename it, so that it is never half written. Since 0.1.

    A link at one of the two names is replaced, not followed.
    """
    beside = path.with_name(path.name + ".writing")
    with create(beside) as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def open_to_append(path: Path, mode: int = 0o666) -> FileIO:
    """Open a file of lines, unbuffered, to append to it; a last line that a killed process left half written is removed.

    Raises:
        OSError: it cannot be opened. Also a `StorageError` if it is a link, a pipe or a device, or too large.
    """
    if path.is_symlink() or (path.exists() and path.stat().st_nlink > 1):  # a file with two names
        raise UnfitFileError(f"{path} is a link; expected a file; remove it")
    unless_link = getattr(os, "O_NOFOLLOW", 0)  # it may become one meanwhile
    file = open(path, "a+b", buffering=0, opener=lambda name, flags: _open_at_once(name, flags | unless_link, mode))  # noqa: SIM115
    _refuse_unfit(file, path, LARGEST)
    file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
    if file.read(1) not in {b"", b"\n"}:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    return file


def append_line(file: FileIO, line: bytes) -> None:
    """Append a line to an unbuffered file, whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    if (written := file.write(line)) < len(line):
        file.truncate(file.tell() - written)
        raise OSError(errno.ENOSPC, "the disk is full")


def parse_json(text: bytes, path: Path, kind: type[T], **fields: type | tuple[type, ...]) -> T:
    """Return the JSON value in a text that others may have written: of one type, an object with at least these fields.

    Raises:
        StorageError: it is another; the message names `path`, the file that the text is from.
    """
    try:
        # An integer of 400 digits would overflow wherever it meets a float.
        value = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 300 else float(digits))
    except (ValueError, RecursionError) as error:
        problem = f"is not JSON that can be read ({error})"
    else:
        given = value if isinstance(value, dict) else {}
        if isinstance(value, kind) and all(isinstance(given.get(name), types) for name, types in fields.items()):
            return value
        problem = "has other content"
    expected = f"a JSON {'list' if kind is list else 'object'}" + f" with {', '.join(fields)}" * bool(fields)
    raise StorageError(f"{path} cannot be read: it {problem}; expected {expected}; replace or remove it")


def read_json(path: Path, kind: type[T], **fields: type | tuple[type, ...]) -> T:
    """Return the JSON value in a file; it raises as `open_regular` and `parse_json` do."""
    with open_regular(path) as file:
        return parse_json(file.read(), path, kind, **fields)


def json_objects(path: Path, **fields: type | tuple[type, ...]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file that others may have written. Since 0.1.

    Raises:
        OSError: it cannot be opened.
        StorageError: it is not a file, or a line is not an object with at least these fields of these types.
    """
    return (parse_json(line, path, dict, **fields) for line in json_lines(path))


def json_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a JSON Lines file. Only a line feed ends one: U+2028, for one, may be inside of texts."""
    with open_regular(path, LARGEST) as file:
        yield from file


def write_sealed(path: Path, content: Mapping[str, Any] | str) -> None:
    """Write a JSON object, or the text of one, with its digest."""
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    body = text.rstrip().removesuffix("}").rstrip()
    write_beside(path, body + _tail(body.encode()))


def sealed_json(path: Path, remedy: str, **fields: type) -> dict[str, Any]:
    """Return the object in a sealed file, which has at least these fields; it raises as `read_sealed` does."""
    return parse_json(read_sealed(path, remedy), path, dict, **fields)


def read_sealed(path: Path, remedy: str) -> bytes:
    """Return the content of a sealed file.

    Raises:
        FileNotFoundError: the file does not exist.
        StorageError: its content is not what was written; the message ends with `remedy`. Or it is not a file.
    """
    with open_regular(path) as file:
        content = file.read()
    body = content[: -len(_tail(b""))]
    if content != body + _tail(body).encode():
        raise StorageError(f"the stored file {path} is damaged: its content is not what was written. {remedy}")
    return content


def _tail(body: bytes) -> str:
    return f',\n "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'


RECORD = ".committed-"
"""The beginning of the names of the record files."""
KEPT = ".seconds"
"""The beginning of the names of the engine's own files, which are neither committed nor discarded."""
_TAIL = (b', "sha256": "', b'"}\n')
_digests: dict[tuple[str, int, int], str] = {}
"""SHA-256 by path, size and time of change of the files that this process has hashed: it need not hash them again."""


def commit(
    folder: Path,
    *paths: Path,
    growing: bool = False,
    pending: Mapping[Path, Path] | None = None,
    gone: Sequence[Path] = (),
) -> None:
    """Record files below `folder` as whole: after a kill they are there again, or are reported and made again.

    Those committed in one call stay together: where one of them is damaged, all of them are discarded. A file that replaces
    one committed before is committed while it is still `pending`, so that at any moment one of the two counts.

    Args:
        folder: where the record is kept; `run.folder`, or a folder below it.
        paths: files, or folders with all files in them. They are synced to disk first.
        growing: they are written line by line, each line by `seal_line`; then only their names are recorded.
        pending: for files of `paths` that are not there yet, those that the caller renames to them afterwards.
        gone: files or folders that the caller is about to delete, also those that other processes committed.

    Raises:
        FileNotFoundError: one of `paths` is not there, nor pending or growing.
    """
    now = pending or {}
    files = sorted({file for path in paths for file in ([path] if growing or path in now else _files(path))})
    entries: dict[str, Any] = dict.fromkeys(file.relative_to(folder).as_posix() for file in files)
    if not growing:
        there = [now.get(file, file) for file in files]
        for current in (*there, *sorted({current for file in there for current in _between(file, folder)})):
            sync(current)
        for name, file, current in zip(entries, files, there, strict=True):
            entries[name] = entry_of(current)
            remember(file, entries[name], current)
    _append(folder, {"files": entries, "gone": [path.relative_to(folder).as_posix() for path in gone]})


def discard_uncommitted(folder: Path, say: Callable[[str], None]) -> None:
    """Delete all files below `folder` that are not committed or are damaged; `say` gets a line for each of the latter."""
    kept: set[Path] = set()
    records = {path: _read(path) for path in record_files(folder)}
    for path, groups in records.items():
        whole = list(_intact(path.parent, groups, say))
        kept |= {path.parent / name for group in whole for name in group}
        write_beside(path, b"".join(seal_line({"files": group}) for group in whole))
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in kept and path not in records and not path.name.startswith(KEPT):
            path.unlink()


def record_files(folder: Path) -> list[Path]:
    """Return the record files at any depth below `folder`."""
    found = (path for path in folder.rglob(f"{RECORD}*") if _is_record(path))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def problem_of(file: Path, entry: Mapping[str, Any], *, hashing: bool = True) -> str | None:
    """Return the damage of a file that had this size and SHA-256, None for an intact one; hashed once in a process.

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
    """Return the number of this process in its run, as torchrun sets it."""
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


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the groups of a record: size and digest by name, None for a growing file.

    A damaged line counts as if it had not been written.
    """
    groups: list[dict[str, Any]] = []
    for content in filter(None, map(unseal_line, path.read_bytes().splitlines(keepends=True))):
        now = [Path(name) for name in content.get("gone", ())]
        groups = [group for group in groups if not any(Path(name).is_relative_to(up) for name in group for up in now)]
        groups.append(content["files"])
    return groups


def _intact(
    folder: Path, groups: Sequence[Mapping[str, Any]], say: Callable[[str], None]
) -> Iterator[Mapping[str, Any]]:
    """Yield the groups whose files are intact, each without the files of a later one; `say` gets a line for damage."""
    taken: set[str] = set()
    broken: list[tuple[Mapping[str, Any], str]] = []
    for whole in reversed(groups):
        group = {name: entry for name, entry in whole.items() if name not in taken}
        damages = ((name, problem_of(folder / name, entry)) for name, entry in group.items() if entry)
        problem = next((f"{name} {what}" for name, what in damages if what), "")
        if problem:
            broken.append((whole, problem))
        elif group := {name: entry for name, entry in group.items() if entry or (folder / name).is_file()}:
            taken |= group.keys()
            yield group
    for whole, problem in broken:
        if not taken.issuperset(whole):
            companions = f", with {len(whole) - 1} files that belong to it" if len(whole) > 1 else ""
            say(f"{folder}{os.sep}{problem}: it is made again{companions}")


def _append(folder: Path, content: Mapping[str, Any]) -> None:
    with open_to_append(folder / f"{RECORD}{process_number()}") as file:
        append_line(file, seal_line(content))
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


class UnfitFileError(StorageError, OSError):
    """The file is a pipe or a device, is too large, or leads out of its folder."""


def open_regular(path: Path, limit: int | None = 64 << 20, inside: Path | None = None) -> BufferedReader:
    """Open a file that others may have written, to read its bytes. Since 0.1.

    Args:
        path: the file; links are followed.
        limit: the most bytes it may have; None for any number, if it is not read whole.
        inside: the folder that it must be in, links resolved. Links of the Hugging Face cache to its blobs are allowed.

    Raises:
        OSError: it cannot be opened, or is a folder. Also a `StorageError` if it is refused.
    """
    real, base = (Path(os.path.realpath(each or "/")) for each in (path, inside))  # unlike `resolve`, it never raises
    blobs = base.parents[1] / "blobs" if base.parent.name == "snapshots" else base
    if not (real.is_relative_to(base) or real.is_relative_to(blobs)):
        raise UnfitFileError(f"{path} leads out of {inside}; expected a file in it; copy the file there, or remove it")
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - Path's takes no opener
    _refuse_unfit(file, path, limit)
    return file


def _refuse_unfit(file: BufferedReader | FileIO, path: Path, limit: int | None) -> None:
    status, problem = os.fstat(file.fileno()), "is a pipe or a device; expected a file"
    if stat.S_ISREG(status.st_mode):
        if limit is None or status.st_size <= limit:
            return
        problem = f"has {status.st_size:,} bytes; expected {limit:,} at most"
    file.close()
    raise UnfitFileError(f"{path} {problem}; replace or remove it")


def copy_inside(source: Path, folder: Path, target: Path) -> None:
    """Copy a file below `folder`, or a folder with all its files, to the same place below `target`. Since 0.1.

    Raises:
        OSError: a file cannot be copied. Also a `StorageError` if it is not below `folder`, or not a file.
    """
    base, below = Path(os.path.abspath(folder)), Path(os.path.abspath(source))  # noqa: PTH100 - links stay as they are
    if not below.is_relative_to(base):  # unless one of them was resolved before
        base, below = Path(os.path.realpath(base)), Path(os.path.realpath(below))
    if below == base or not below.is_relative_to(base):
        raise UnfitFileError(f"{source} is not below {folder}; expected a file or a folder there; move it")
    for path in sorted(below.rglob("*")) if below.is_dir() else [below]:
        if path.is_symlink() or not path.is_dir():
            (target / path.relative_to(base)).parent.mkdir(parents=True, exist_ok=True)
            with open_regular(path, None, base) as file, create(target / path.relative_to(base)) as copy:
                shutil.copyfileobj(file, copy)


def _open_at_once(path: str, flags: int, mode: int = 0o666) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), mode)  # else a pipe is opened once someone writes to it
