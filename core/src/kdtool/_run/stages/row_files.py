"""Rows: their files, annotations before packing, and the same texts in a teacher's own tokenizer.

Rows of tokens are in safetensors shards, written once and read at random through a memory map. A shard holds `input_ids`
[n, L] int32, `labelled` [n, L] uint8, `document` [n, L] int32 and `columns.<name>` [n, L] int32; the row keys are in its
metadata. Annotations are numbers for each character of an example, added by weightings and teachers of a phase.

For losses that work across vocabularies, each of the student's rows becomes one of the teacher's, under the same key: its
documents are decoded and encoded again, and begin as the teacher's tokenizer begins a document. Columns of both rows hold
the bytes of the document that each token covers.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool._contract.component import Component
from kdtool._contract.data import Example, Row, RowSource, parts_of
from kdtool._contract.language_model import Tokenizer
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError, StorageError
from kdtool._plugins.hooks import blame
from kdtool._store.artefacts import check_file
from kdtool._tokenizers import BYTE_END, BYTE_START, byte_spans, whole_characters

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


def annotate(run: RunInfo, examples: Iterable[Example], labellers: Sequence[str]) -> Iterator[Example]:
    """Yield the examples with annotations by the components of these names.

    Raises:
        PluginError: a component returned other columns, or another number of entries than the text has characters.
    """
    for example in examples:
        size = sum(map(len, parts_of(example.body)))
        annotations: dict[str, Sequence[int]] = {}
        for name in labellers:
            component: Any = run.component(name, Component)
            labels: Mapping[str, Sequence[int]] = component.kdtool_annotate(example)
            with blame(run.hook.owner(name), "kdtool_annotate"):
                if labels.keys() != component.columns or any(len(values) != size for values in labels.values()):
                    returned = ", ".join(f"{column} [{len(values)}]" for column, values in labels.items()) or "nothing"
                    raise PluginError(
                        f"returned {returned} for example {example.id!r}; expected one number for each of its {size} "
                        f"characters in {', '.join(sorted(component.columns)) or 'no column'}"
                    )
            annotations.update(labels)
        yield replace(example, annotations=annotations)


_MULTIPLE = 8
_Token = tuple[int, bool, int, int, int]
"""Id, label, number of the document, and the bytes of the document that the token covers: start and end."""


class Spelled:
    """A `RowSource` whose rows have columns with the bytes of the document that each token covers."""

    def __init__(self, rows: RowSource, tokenizer: Tokenizer) -> None:
        self._rows = rows
        self._tokenizer = tokenizer
        self.fingerprint = rows.fingerprint
        self.length = rows.length

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        row = self._rows[index]
        starts, ends = [0] * self.length, [0] * self.length
        for part in _documents(row):
            starts[part], ends[part] = byte_spans(self._tokenizer.pieces(row.input_ids[part]))
        return replace(row, columns={**row.columns, BYTE_START: starts, BYTE_END: ends})


class Translation:
    """The student's rows in another tokenizer. `left_out` counts documents that do not survive it byte by byte."""

    def __init__(self, rows: RowSource, own: Tokenizer, other: Tokenizer) -> None:
        self._rows, self._own, self._other = rows, own, other
        self.left_out = 0

    def rows(self) -> Iterator[Row]:
        """Yield rows of one length, one for each of the student's, in their order."""
        longest = max((len(self._tokens(self._rows[index])) for index in range(len(self._rows))), default=0)
        length = max(2, -(-longest // _MULTIPLE) * _MULTIPLE)
        padding: _Token = (self._other.end_of_text, False, -1, 0, 0)
        self.left_out = 0
        for index in range(len(self._rows)):
            row = self._rows[index]
            tokens = self._tokens(row)
            tokens += [padding] * (length - len(tokens))
            ids, labelled, document, starts, ends = map(list, zip(*tokens, strict=True))
            yield Row(row.key, ids, labelled, document, {BYTE_START: starts, BYTE_END: ends})

    def _tokens(self, row: Row) -> list[_Token]:
        documents = (
            self._translate(row.input_ids[part], row.labelled[part], row.document[part.start])
            for part in _documents(row)
        )
        return [token for tokens in documents for token in tokens]

    def _translate(self, ids: Sequence[int], labelled: Sequence[bool], number: int) -> Iterable[_Token]:
        """Return the tokens of a document, or of the part of it that is in the row."""
        pieces = self._own.pieces(ids)
        content = b"".join(pieces)
        try:
            begin, text = whole_characters(content)
        except UnicodeDecodeError:  # a character lacks bytes in the middle, at a special token
            self.left_out += 1
            return ()
        encoded = self._other.encode(text)
        other_pieces = list(self._other.pieces(encoded))
        if b"".join(other_pieces) != text.encode():
            self.left_out += 1
            return ()
        ended = bool(ids) and ids[-1] == self._own.end_of_text
        first = self._other.missing_start(encoded)
        encoded, other_pieces = [*first, *encoded], [*(b"" for _ in first), *other_pieces]
        if ended:
            encoded, other_pieces = [*encoded, self._other.end_of_text], [*other_pieces, b""]
        learned = bytearray().join(bytes([label]) * len(piece) for piece, label in zip(pieces, labelled, strict=True))
        starts, ends = byte_spans(other_pieces, begin)
        labels = [start < end and all(learned[start:end]) for start, end in zip(starts, ends, strict=True)]
        if ended:
            labels[-1] = labelled[-1]
        return zip(encoded, labels, [number] * len(encoded), starts, ends, strict=True)


def _documents(row: Row) -> Iterator[slice]:
    """Yield the span of each document in the row, without padding."""
    begin = 0
    for number, tokens in groupby(row.document):
        end = begin + len(list(tokens))
        if number >= 0:
            yield slice(begin, end)
        begin = end
