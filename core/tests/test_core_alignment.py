"""Two ways of cutting the same bytes: where they meet, and rows written in another tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._run.stages.row_files import Spelled, Translation
from kdtool._tokenizers import BYTE_END, BYTE_START, whole_characters
from kdtool_testing import ListSource
from toy import Bytes


@given(text=st.text(max_size=12), begin=st.integers(0, 40), end=st.integers(0, 40))
def test_whole_characters_are_found_in_any_cut_of_a_text(text: str, begin: int, end: int) -> None:
    content = text.encode()
    cut = content[begin:end]
    skipped, found = whole_characters(cut)
    assert cut[skipped : skipped + len(found.encode())] == found.encode()
    lost = len(cut) - len(found.encode())
    assert lost <= 6
    borders = {0, *accumulate(len(letter.encode()) for letter in text)}
    inside = [border for border in borders if begin <= border <= min(end, len(content))]
    expected = content[min(inside) : max(inside)].decode() if len(inside) > 1 else ""
    assert found == expected


class Letters(Bytes):
    """Every character is a token, and 1 ends a text: texts are cut at other bytes than single ones."""

    vocabulary = 0x110000 + 2
    end_of_text = 1
    fingerprint = "letters"

    def encode(self, text: str) -> list[int]:
        return [ord(letter) + 2 for letter in text]

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [b"" if index in {1, *self.document_start} else chr(index - 2).encode() for index in ids]


class Pairs(Letters):
    """Two characters are a token where they fit into one, and capitals are lost."""

    fingerprint = "pairs"

    def __init__(self, lower: bool = False) -> None:
        self.lower = lower

    def encode(self, text: str) -> list[int]:
        text = text.lower() if self.lower else text
        words = [text[i : i + 2] for i in range(0, len(text), 2)]
        return [2 + sum((ord(letter) + 1) * 0x110001**place for place, letter in enumerate(word)) for word in words]

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        found = []
        for index in ids:
            second, first = divmod(index - 2, 0x110001) if index != 1 else (0, 0)
            found.append("".join(chr(letter - 1) for letter in (first, second) if letter).encode())
        return found


class BegunBytes(Bytes):
    document_start = (257,)


class BegunLetters(Letters):
    document_start = (2 + 0x110000, 3 + 0x110000)


_LETTERS = st.text(st.characters(codec="utf-8"), max_size=9)


def _rows(texts: list[str], own: Any, length: int, masked: int) -> list[kdtool.Row]:
    """Pack documents, each with its end, and cut rows wherever they are full."""
    ids: list[int] = []
    numbers: list[int] = []
    for number, text in enumerate(texts):
        document = [*own.document_start, *own.encode(text), own.end_of_text]
        ids += document
        numbers += [number] * len(document)
    rows = []
    for begin in range(0, len(ids), length):
        cut, document = ids[begin : begin + length], numbers[begin : begin + length]
        missing = length - len(cut)
        labelled = [(begin + place) % masked != 0 for place in range(len(cut))] + [False] * missing
        document = [number - document[0] for number in document] + [-1] * missing
        rows.append(kdtool.Row(f"r{begin}", cut + [own.end_of_text] * missing, labelled, document))
    return rows


@given(
    texts=st.lists(_LETTERS, min_size=1, max_size=4), length=st.integers(4, 12), masked=st.integers(2, 9),
    pair=st.sampled_from([
        (Bytes(), Letters()), (Letters(), Pairs()), (Pairs(), Bytes()), (Bytes(), Pairs()),
        (BegunBytes(), Letters()), (Pairs(), BegunLetters()), (BegunBytes(), BegunLetters()),
    ]),
)  # fmt: skip
def test_rows_of_the_teacher_are_the_same_bytes(
    texts: list[str], length: int, masked: int, pair: tuple[Bytes, Bytes]
) -> None:
    own, other = pair
    rows = _rows(texts, own, length, masked)
    translation = Translation(ListSource(rows), own, other)
    found = list(translation.rows())
    assert translation.left_out == 0
    assert [row.key for row in found] == [row.key for row in rows]
    assert len({len(row.input_ids) for row in found}) == 1
    spelled = Spelled(ListSource(rows), own)
    for index, (row, theirs) in enumerate(zip(rows, found, strict=True)):
        mine = spelled[index]
        assert list(theirs.document).count(-1) + sum(number >= 0 for number in theirs.document) == len(theirs.document)
        for number in {each for each in row.document if each >= 0}:
            here = [i for i, each in enumerate(row.document) if each == number]
            there = [j for j, each in enumerate(theirs.document) if each == number]
            begun = there[: len(other.document_start)]
            assert tuple(theirs.input_ids[j] for j in begun) == other.document_start, "begins as the teacher's do"
            assert not any(theirs.labelled[j] for j in begun)
            assert all(theirs.columns[BYTE_START][j] == theirs.columns[BYTE_END][j] for j in begun)
            pieces = own.pieces([row.input_ids[i] for i in here])
            content = b"".join(pieces)
            assert [mine.columns[BYTE_END][i] for i in here] == list(accumulate(map(len, pieces)))
            for j in there:
                start, end = theirs.columns[BYTE_START][j], theirs.columns[BYTE_END][j]
                assert content[start:end] == other.pieces([theirs.input_ids[j]])[0]
                if theirs.labelled[j] and start < end:  # only what the student learns is asked of the teacher
                    covering = [
                        i for i in here if mine.columns[BYTE_START][i] < end and mine.columns[BYTE_END][i] > start
                    ]
                    assert all(row.labelled[i] for i in covering)
            ended = row.input_ids[here[-1]] == own.end_of_text
            assert ended == (bool(there) and theirs.input_ids[there[-1]] == other.end_of_text)


def test_documents_that_the_other_tokenizer_changes_are_left_out_and_counted() -> None:
    rows = _rows(["abc", "aBC", "abcd"], Letters(), 14, 99)
    translation = Translation(ListSource(rows), Letters(), Pairs(lower=True))
    (row,) = translation.rows()
    assert translation.left_out == 1
    assert set(row.document) == {0, 2, -1}


def test_other_bytes_than_utf8_within_a_text_are_no_text() -> None:
    with pytest.raises(UnicodeDecodeError):
        whole_characters(b"ab\xff\xffcd ef")
