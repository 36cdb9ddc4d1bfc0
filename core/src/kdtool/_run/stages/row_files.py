"""The rows artefact: rows of tokens in safetensors shards, written once and read at random through a memory map.

A shard holds `input_ids` [n, L] int32, `labelled` [n, L] uint8, `document` [n, L] int32 and `columns.<name>` [n, L] int32;
the row keys are in its metadata.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool._contract.data import Row
from kdtool._errors import PluginError, StorageError
from kdtool._store.artefacts import check_file

if TYPE_CHECKING:
    import numpy as np

INDEX = "rows.json"
_SHARD_TOKENS = 4_000_000


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
            shards.append(_write_shard(pending, folder, len(shards), owner))
            pending = []
    if pending:
        shards.append(_write_shard(pending, folder, len(shards), owner))
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
        self._ends: list[int] = [*accumulate(shard["rows"] for shard in index["shards"])]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        if number not in self._shards:
            self._shards[number] = _Shard(self._files[number])
        return self._shards[number].row(index - (self._ends[number - 1] if number else 0))


def _write_shard(rows: Sequence[Row], folder: Path, number: int, owner: object) -> dict[str, object]:
    from safetensors.numpy import save_file

    try:
        tensors = _tensors(rows)
    except (TypeError, ValueError) as error:
        keys = f"{rows[0].key!r} to {rows[-1].key!r}"
        raise PluginError(
            f"{owner} returned values that are not 32-bit whole numbers in rows {keys}: {error}"
        ) from error
    file = f"rows-{number:05}.safetensors"
    save_file(tensors, folder / file, {"keys": json.dumps([row.key for row in rows])})
    return {"file": file, "rows": len(rows)}


def _tensors(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    return {
        "input_ids": _integers(row.input_ids for row in rows),
        "document": _integers(row.document for row in rows),
        "labelled": _integers(map(bool, row.labelled) for row in rows).astype("uint8"),
        **{f"columns.{name}": _integers(row.columns[name] for row in rows) for name in rows[0].columns},
    }


def _integers(rows: Iterable[Iterable[int]]) -> np.ndarray:
    """Return whole numbers [n, L] as int32.

    Raises:
        ValueError: some are not whole numbers, or beyond 32 bits.
    """
    import numpy as np

    values = np.array([list(row) for row in rows])
    if values.dtype.kind not in "biu" or (values != values.astype(np.int32)).any():
        raise ValueError(f"found {values.dtype} from {values.min()} to {values.max()}")
    return values.astype(np.int32)


class _Shard:
    """One safetensors file, of which rows are read through a memory map."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            file: Any = safe_open(path, framework="numpy")
            self.keys: list[str] = json.loads(file.metadata()["keys"])
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"the stored file {path} is damaged; delete {path.parent} and run again") from error
        self._tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # no mapping

    def row(self, index: int) -> Row:
        values = {name: tensor[index].tolist() for name, tensor in self._tensors.items()}
        columns = {name.removeprefix("columns."): values[name] for name in values if name.startswith("columns.")}
        return Row(self.keys[index], values["input_ids"], [*map(bool, values["labelled"])], values["document"], columns)
