"""Rows of the same texts in a teacher's own tokenizer, for losses that work across vocabularies.

Each of the student's rows becomes one of the teacher's, under the same key: its documents are decoded and encoded again,
and begin as the teacher's tokenizer begins a document. Columns of both rows hold the bytes of the document that each token
covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from kdtool._contract.data import Row, RowSource
from kdtool._contract.tokenizer import Tokenizer
from kdtool._tokenizers.byte_alignment import BYTE_END, BYTE_START, byte_spans, whole_characters

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
