"""The start of documents: nothing of a text is lost behind the start, and it stands there once, whoever writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_essentials.packed import Packed, Pairs
from kdtool_testing import ByteTokenizer, make_run
from packing import END, documents_of, pack

START = 257


class Begun(ByteTokenizer):
    """Bytes behind a start; FIM tokens, and a template that writes the start itself."""

    vocabulary = 260
    document_start: tuple[int, ...] = (START,)
    chat_fingerprint = "begun"
    PREFIX, REST = 258, 259

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]] | None:
        learned = [(byte, role == "assistant") for role, content in turns for byte in (*content.encode(), END)]
        return [START, *(byte for byte, _ in learned)], [False, *(each for _, each in learned)]

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        return [self.PREFIX, *before.encode(), self.REST, *after.encode(), self.REST, *middle.encode(), END]


class Twice(Begun):
    document_start = (START, START + 1)


@pytest.mark.parametrize("tokenizer", [Begun(), Twice()])
@given(bodies=st.lists(st.text("abc", min_size=1, max_size=30), max_size=9), length=st.integers(5, 24))
def test_each_document_begins_and_no_token_of_a_text_is_lost(
    bodies: list[str], length: int, tokenizer: kdtool.Tokenizer
) -> None:
    rows, _ = pack([kdtool.Text(body) for body in bodies], tokenizer, length=length)
    start = list(tokenizer.document_start)
    assert all(len(row.input_ids) == length for row in rows)
    text, first_learned, begins = list[int](), list[bool](), [True]
    for document in documents_of(rows):
        ids, learned = [token for token, _ in document], [each for _, each in document]
        assert ids[: len(start)] == start
        assert ids.count(START) == 1
        assert len(ids) > len(start), "something stands behind a start"
        assert not any(learned[: len(start)])
        assert all(learned[len(start) + 1 :])
        first_learned.append(learned[len(start)])
        begins.append(ids[-1] == END)
        text += ids[len(start) :]
    whole = [token for body in bodies for token in (*body.encode(), END)]
    left = iter(whole)
    assert all(token in left for token in text), "in their order"
    if len(text) == len(whole):  # no row was left out, in which nothing is learned
        assert first_learned == begins[:-1], "a continued document does not learn its first token: no text begins there"


def test_rows_by_hand() -> None:
    rows, _ = pack([kdtool.Text("abcd"), kdtool.Text("e")], Begun(), length=4)
    assert [list(row.input_ids) for row in rows] == [
        [START, 97, 98, 99],
        [START, 100, END, END],  # only the next document's start would fit behind
        [START, 101, END, END],
    ]
    assert [list(row.labelled) for row in rows] == [
        [False, True, True, True],
        [False, False, True, False],
        [False, True, True, False],
    ]
    assert [list(row.document) for row in rows] == [[0, 0, 0, 0], [0, 0, 0, -1], [0, 0, 0, -1]]


def test_what_is_learned_with_a_prompt_a_template_and_a_gap() -> None:
    talk = kdtool.Messages((("user", "a"), ("assistant", "b")))
    bodies = [kdtool.Completion("a", "b"), talk, kdtool.Text("ab")]
    found = documents_of(pack(bodies, Begun(), length=64, fim={"rate": 1.0})[0])
    assert found[0] == [(START, False), (97, False), (98, True), (END, True)]
    assert found[1] == [(START, False), (97, False), (END, False), (98, True), (END, True)], "the template's own start"
    assert [token for token, _ in found[2]][:2] == [START, Begun.PREFIX], "as Code Llama's infilling is written"
    assert [learned for _, learned in found[2]] == [False, *[True] * 6]


def test_annotations_stay_at_their_tokens() -> None:
    example = kdtool.Example("e", kdtool.Text("abcdef"), annotations={"place": [1, 2, 3, 4, 5, 6]})
    rows = list(Packed(Packed.Config(length=4)).kdtool_rows(make_run(Path()), [example], Begun()))
    assert [list(row.columns["place"]) for row in rows] == [[0, 1, 2, 3], [0, 4, 5, 6]]


def test_a_pair_keeps_its_start_where_the_prompt_loses_its_beginning() -> None:
    example = kdtool.Example("p", kdtool.Preference("abcdef", "x", "yz"))
    (row,) = Pairs(Pairs.Config(length=12)).kdtool_rows(make_run(Path()), [example], Begun())
    ids = [START, 101, 102, 120, END], [START, 101, 102, 121, 122, END]
    assert list(row.input_ids) == [*ids[0], *ids[1], END]
    assert list(row.labelled) == [False] * 3 + [True] * 2 + [False] * 3 + [True] * 3 + [False]


def test_rows_without_room_behind_a_start_are_refused() -> None:
    with pytest.raises(kdtool.UsageError, match=r"rows.length: a row of 2 tokens has no room after the 2 "):
        pack([], Twice(), length=2)
