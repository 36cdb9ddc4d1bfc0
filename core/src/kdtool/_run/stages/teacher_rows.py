"""Rows of the same texts in a teacher's own tokenizer, for losses that work across vocabularies.

Each of the student's rows becomes one of the teacher's, under the same key: its documents are decoded and encoded again,
and begin as the teacher's tokenizer begins a document. Columns of both rows hold the bytes of the document that each token
covers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from kdtool._contract.data import Row, RowSource
from kdtool._contract.tokenizer import Tokenizer
from kdtool._tokenizers.byte_alignment import BYTE_END, BYTE_START, byte_spans, whole_characters

_MULTIPLE = 8


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


@dataclass
class _Tokens:
    """A translated row before padding."""

    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)
    document: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


class Translation:
    """The student's rows in another tokenizer. `left_out` counts documents that do not survive it byte by byte."""

    def __init__(self, rows: RowSource, own: Tokenizer, other: Tokenizer) -> None:
        self._rows, self._own, self._other = rows, own, other
        self.left_out = 0

    def rows(self) -> Iterator[Row]:
        """Yield rows of one length, one for each of the student's, in their order."""
        longest = max((len(self._translate(self._rows[index]).ids) for index in range(len(self._rows))), default=0)
        length = max(2, -(-longest // _MULTIPLE) * _MULTIPLE)
        self.left_out = 0
        for index in range(len(self._rows)):
            row = self._rows[index]
            tokens = self._translate(row)
            missing = length - len(tokens.ids)
            yield Row(
                row.key,
                tokens.ids + [self._other.end_of_text] * missing,
                tokens.labelled + [False] * missing,
                tokens.document + [-1] * missing,
                {BYTE_START: tokens.starts + [0] * missing, BYTE_END: tokens.ends + [0] * missing},
            )

    def _translate(self, row: Row) -> _Tokens:
        found = _Tokens()
        for part in _documents(row):
            self._add(found, row.input_ids[part], row.labelled[part], row.document[part.start])
        return found

    def _add(self, tokens: _Tokens, ids: Sequence[int], labelled: Sequence[bool], number: int) -> None:
        """Add a document, or the part of it that is in the row."""
        pieces = self._own.pieces(ids)
        content = b"".join(pieces)
        try:
            begin, text = whole_characters(content)
        except UnicodeDecodeError:  # a character lacks bytes in the middle, at a special token
            self.left_out += 1
            return
        encoded = self._other.encode(text)
        other_pieces = list(self._other.pieces(encoded))
        if b"".join(other_pieces) != text.encode():
            self.left_out += 1
            return
        ended = bool(ids) and ids[-1] == self._own.end_of_text
        first = self._other.missing_start(encoded)
        encoded, other_pieces = [*first, *encoded], [*(b"" for _ in first), *other_pieces]
        if ended:
            encoded, other_pieces = [*encoded, self._other.end_of_text], [*other_pieces, b""]
        learned = bytearray().join(bytes([label]) * len(piece) for piece, label in zip(pieces, labelled, strict=True))
        starts, ends = byte_spans(other_pieces, begin)
        tokens.ids += encoded
        tokens.labelled += [start < end and all(learned[start:end]) for start, end in zip(starts, ends, strict=True)]
        if ended:
            tokens.labelled[-1] = labelled[-1]
        tokens.document += [number] * len(encoded)
        tokens.starts += starts
        tokens.ends += ends


def _documents(row: Row) -> Iterator[slice]:
    """Yield the span of each document in the row, without padding."""
    begin = 0
    for number, tokens in groupby(row.document):
        end = begin + len(list(tokens))
        if number >= 0:
            yield slice(begin, end)
        begin = end
