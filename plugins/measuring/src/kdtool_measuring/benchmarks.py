"""Published test sets: lines of JSON, optionally gzipped, of which all or some items are used."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import kdtool

Kind = Literal["text", "texts", "text or number"]
"""Expected type of a record's field; `texts` is a list of text."""


class _Named(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Named)


def read_and_hash(file: Path | Traversable, key: str) -> tuple[bytes, str]:
    """Return a file's content, decompressed, and the SHA-256 of it.

    Args:
        file: the file, gzipped or not.
        key: the setting that names it, for messages.

    Raises:
        kdtool.UsageError: the file cannot be read.
    """
    try:
        packed = file.read_bytes()
        content = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    except (OSError, EOFError, zlib.error) as error:
        raise kdtool.UsageError(
            f"{key}: {file} cannot be read: {error}; expected a text file, plain or gzipped"
        ) from error
    return content, hashlib.sha256(content).hexdigest()


def read_lines(file: Path | Traversable, key: str) -> list[str]:
    """Return the lines of a text file in UTF-8, with or without a byte order mark. Arguments as for `read_and_hash`.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another encoding.
    """
    try:
        return read_and_hash(file, key)[0].decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise kdtool.UsageError(f"{key}: {file} is not UTF-8 ({error}); save it in UTF-8") from error


def records_of(
    file: Path | Traversable, key: str, needed: Mapping[str, Kind], expected: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a file's records, each with its location (setting, file and line) for messages.

    Args:
        file: as for `read_and_hash`.
        key: the setting that names it.
        needed: the fields of a record.
        expected: the name of the expected file, for messages.

    Raises:
        kdtool.UsageError: the file cannot be read or is empty, or a line is not such a record.
    """
    lines = read_lines(file, key)
    if not any(map(str.strip, lines)):
        raise kdtool.UsageError(f"{key}: {file} contains no records; expected {expected}")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        location = f"{key}: {file}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise kdtool.UsageError(f"{location}: not JSON: {error}; expected {expected}") from error
        if not isinstance(record, Mapping) or not all(name in record for name in needed):
            raise kdtool.UsageError(f"{location}: not a record with {', '.join(needed)}; expected {expected}")
        check_fields(record, needed, location, expected)
        yield location, record


def check_fields(record: Mapping[str, Any], needed: Mapping[str, Kind], location: str, expected: str) -> None:
    """Check that all fields are present and of the expected type. Arguments as for `records_of`.

    Raises:
        kdtool.UsageError: a field is missing or of another type; the message names it.
    """
    for name, kind in needed.items():
        if name not in record:
            raise kdtool.UsageError(f"{location}: {name} is missing; expected {expected}")
        if not _is(record[name], kind):
            shown = json.dumps(record[name])[:40]
            wanted = "a list of texts" if kind == "texts" else f"a {kind}"
            raise kdtool.UsageError(f"{location}: {name} is {shown}, not {wanted}; expected {expected}")


def _is(value: Any, kind: Kind) -> bool:
    if kind == "texts":
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    number = kind == "text or number" and isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str) or number


def choose(items: Sequence[T], most: int | None) -> Sequence[T]:
    """Select at most `most` items by the hashes of their ids, keeping their order; all for None.

    Every machine selects the same items.
    """
    if most is None or most >= len(items):
        return items
    names = {
        item.id for item in nsmallest(most, items, key=lambda item: hashlib.sha256(item.id.encode("utf-8")).digest())
    }
    return [item for item in items if item.id in names]
