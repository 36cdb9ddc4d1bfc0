"""The rows artefact: rows of tokens in safetensors shards, written once and read at random through a memory map.

A shard holds `input_ids` [n, L] int32, `labelled` [n, L] uint8, `document` [n, L] int32 and `columns.<name>` [n, L] int32;
the row keys are in its metadata. Anything that reads safetensors reads it. The format (8 bytes of header length, a JSON
header, the tensors) is written here in full, since the safetensors library needs numpy or torch to read it.
"""

from __future__ import annotations

import json
import mmap
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdtool._contract.data import Row
from kdtool._errors import PluginError, StorageError
from kdtool._store.artefacts import check_file

INDEX = "rows.json"
_SHARD_TOKENS = 4_000_000
_INT = "i" if array("i").itemsize == 4 else "l"


def write_rows(rows: Iterable[Row], folder: Path, owner: object) -> int:
    """Write rows in shards and an index; return their number.

    Raises:
        PluginError: rows differ in length or columns, have a key twice, hold something else than whole numbers of 32 bits,
            or there are none (`owner` is named).
    """
    shards: list[dict[str, object]] = []
    pending: list[Row] = []
    length, columns = 0, None
    seen: set[str] = set()
    for row in rows:
        length = length or len(row.input_ids)
        if not len(row.input_ids) == len(row.labelled) == len(row.document) == length:
            raise PluginError(
                f"{owner} returned row {row.key!r} of {len(row.input_ids)} tokens, the first one of {length}"
            )
        columns = row.columns.keys() if columns is None else columns
        if row.columns.keys() != columns or any(len(column) != length for column in row.columns.values()):
            raise PluginError(f"{owner} returned row {row.key!r} with columns of another name or length")
        if row.key in seen:
            raise PluginError(f"{owner} returned the row key {row.key!r} twice")
        seen.add(row.key)
        pending.append(row)
        if len(pending) * length >= _SHARD_TOKENS:
            shards.append(_write_shard(pending, length, folder, len(shards), owner))
            pending = []
    if pending:
        shards.append(_write_shard(pending, length, folder, len(shards), owner))
    if not shards:
        raise PluginError(
            f"{owner} returned no rows: is there text in the split 'train', and enough of it for one row?"
        )
    (folder / INDEX).write_text(json.dumps({"length": length, "shards": shards}), encoding="utf-8")
    return len(seen)


class StoredRows:
    """A `RowSource` on a rows artefact."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        index = json.loads(check_file(folder, INDEX).read_text(encoding="utf-8"))
        self.length: int = index["length"]
        self.fingerprint = fingerprint
        self._files = [folder / shard["file"] for shard in index["shards"]]
        self._shards: dict[int, _Shard] = {}
        self._ends: list[int] = []
        for shard in index["shards"]:
            self._ends.append((self._ends[-1] if self._ends else 0) + shard["rows"])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        if number not in self._shards:
            self._shards[number] = _Shard(self._files[number])
        return self._shards[number].row(index - (self._ends[number - 1] if number else 0))


def _write_shard(rows: Sequence[Row], length: int, folder: Path, number: int, owner: object) -> dict[str, object]:
    try:
        tensors = _tensors(rows)
    except (TypeError, ValueError, OverflowError) as error:
        keys = f"{rows[0].key!r} to {rows[-1].key!r}"
        raise PluginError(
            f"{owner} returned values that are not 32-bit whole numbers in rows {keys}: {error}"
        ) from error
    header: dict[str, object] = {"__metadata__": {"keys": json.dumps([row.key for row in rows])}}
    end = 0
    for name, (dtype, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [len(rows), length], "data_offsets": [end, end + len(content)]}
        end += len(content)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format aligns tensors by spaces after the header
    file = f"rows-{number:05}.safetensors"
    with (folder / file).open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        out.writelines(content for _, content in tensors.values())
    return {"file": file, "rows": len(rows)}


def _tensors(rows: Sequence[Row]) -> dict[str, tuple[str, bytes]]:
    return {
        "input_ids": ("I32", _integers(row.input_ids for row in rows)),
        "document": ("I32", _integers(row.document for row in rows)),
        "labelled": ("U8", b"".join(bytes(map(bool, row.labelled)) for row in rows)),
        **{
            f"columns.{name}": ("I32", _integers(row.columns[name] for row in rows)) for name in sorted(rows[0].columns)
        },
    }


def _integers(rows: Iterable[Sequence[int]]) -> bytes:
    values = array(_INT)
    for row in rows:
        values.extend(row)
    return values.tobytes()


class _Shard:
    """One safetensors file, read through a memory map: 8 bytes of header length, a JSON header, then the tensors."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            start = 8 + int.from_bytes(self._map[:8], "little")
            header = json.loads(bytes(self._map[8:start]))
            self.keys: list[str] = json.loads(header.pop("__metadata__")["keys"])
        except (ValueError, KeyError) as error:
            raise StorageError(f"the stored file {path} is damaged; delete {path.parent} and run again") from error
        self._tensors: dict[str, memoryview] = {}
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            content = self._map[start + first : start + last]
            self._tensors[name] = content.cast("i") if entry["dtype"] == "I32" else content
        self._length = header["input_ids"]["shape"][1]

    def row(self, index: int) -> Row:
        part = slice(index * self._length, (index + 1) * self._length)
        columns = {name[8:]: values[part].tolist() for name, values in self._tensors.items() if name[:8] == "columns."}
        labelled = [value != 0 for value in self._tensors["labelled"][part]]
        ids, document = self._tensors["input_ids"][part].tolist(), self._tensors["document"][part].tolist()
        return Row(self.keys[index], ids, labelled, document, columns)
