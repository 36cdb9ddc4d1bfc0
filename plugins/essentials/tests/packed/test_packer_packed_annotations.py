"""Annotations come to the right tokens: against a plain reference, in infilling, conversations and cut characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_essentials.packed import Packed
from kdtool_testing import ByteTokenizer, make_run
from kdtool_testing.toy import SpacedTokenizer

END = ByteTokenizer.end_of_text
SPACE = set(b" \t\n\r\v\f")
TEXTS = st.text(st.sampled_from("ab x=\n\té漢\U0001f600"), max_size=30)


class Chopper(ByteTokenizer):
    """Cuts texts into pieces of some bytes, wherever that falls, and gives each piece an id of its own."""

    PREFIX, SUFFIX, MIDDLE, MARK = range(1000, 1004)
    vocabulary = 1 << 20
    chat_fingerprint = "brackets"

    def __init__(self, sizes: Sequence[int] = (1, 3, 2)) -> None:
        self.sizes = list(sizes)
        self.known: dict[bytes, int] = {}

    def encode(self, text: str) -> list[int]:
        content = text.encode()
        ids: list[int] = []
        while content:
            size = self.sizes[len(ids) % len(self.sizes)]
            ids.append(self.known.setdefault(content[:size], 2000 + len(self.known)))
            content = content[size:]
        return ids

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        names = {number: content for content, number in self.known.items()}
        return [names.get(number, b"") for number in ids]

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        prefix, gap, suffix = map(self.encode, (before, middle, after))
        if suffix_first:
            return [self.PREFIX, self.SUFFIX, *suffix, self.MIDDLE, *prefix, *gap, END]
        return [self.PREFIX, *prefix, self.SUFFIX, *suffix, self.MIDDLE, *gap, END]

    def encode_chat(
        self, turns: Sequence[tuple[str, str]], detailed: kdtool.DetailedMessages | None = None
    ) -> tuple[list[int], list[bool]] | None:
        ids: list[int] = []
        labelled: list[bool] = []
        for role, content in turns:
            head, own = self.encode(f"[{role}]"), [*self.encode(content.strip()), self.MARK]
            ids += [*head, *own]
            labelled += [False] * len(head) + [role == "assistant"] * len(own)
        return ids, labelled


def rows(example: kdtool.Example, tokenizer: kdtool.Tokenizer, **settings: Any) -> list[kdtool.Row]:
    packer = Packed(Packed.Config.model_validate({"length": 400, **settings}))
    return list(packer.kdtool_rows(make_run(Path()), [example], tokenizer))


def numbered(body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> kdtool.Example:
    """An example whose characters are counted from 1."""
    size = sum(map(len, kdtool.parts_of(body)))
    return kdtool.Example("e", body, annotations={"place": range(1, size + 1)})


def told(row: kdtool.Row, tokenizer: kdtool.Tokenizer) -> list[tuple[bytes, int]]:
    """Return bytes and number of each token that is no padding."""
    pieces = tokenizer.pieces(row.input_ids)
    found = zip(pieces, row.columns["place"], row.document, strict=True)
    return [(piece, place) for piece, place, number in found if number >= 0]


def reference(pieces: Sequence[bytes], text: str, first: int = 1) -> list[tuple[bytes, int]]:
    """Spell each byte with its character's number, and let each piece take that of its first byte that is not white."""
    spelled = [(byte, number) for number, letter in enumerate(text, first) for byte in letter.encode()]
    found = []
    for piece in pieces:
        own, spelled = spelled[: len(piece)], spelled[len(piece) :]
        assert bytes(byte for byte, _ in own) == piece
        black = [number for byte, number in own if byte not in SPACE]
        found.append((piece, (black or [number for _, number in own] or [0])[0]))
    return found


@given(TEXTS.filter(bool), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_token_has_the_number_of_its_first_byte_that_is_not_white(text: str, sizes: list[int]) -> None:
    tokenizer = Chopper(sizes)
    for row in rows(numbered(kdtool.Text(text)), tokenizer):
        pieces = [piece for piece, _ in told(row, tokenizer)]
        assert told(row, tokenizer) == [*reference(pieces[:-1], text), (b"", 0)]


@given(TEXTS.filter(bool), st.booleans(), st.integers(0, 9), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_numbers_move_with_a_gap_s_text(text: str, suffix_first: bool, seed: int, sizes: list[int]) -> None:
    """The stretches between marks, put in order, are the text; each is told as the reference tells it there."""
    tokenizer = Chopper(sizes)
    fim = {"rate": 1.0, "spm_rate": float(suffix_first), "seed": seed}
    (row,) = rows(numbered(kdtool.Text(text)), tokenizer, fim=fim)
    seen = told(row, tokenizer)
    suffix, middle = (list(row.input_ids).index(mark) for mark in (Chopper.SUFFIX, Chopper.MIDDLE))
    first, second, third = seen[1:suffix], seen[suffix + 1 : middle], seen[middle + 1 : -1]
    assert [number for piece, number in seen if not piece] == [0] * 4, "marks and ends are of no class"
    in_order = [second, third] if suffix_first else [first, second, third]
    spelled = [b"".join(piece for piece, _ in stretch).decode() for stretch in in_order]
    begins = [1 + len(spelled[-1]), 1] if suffix_first else [1, 1 + len(spelled[0] + spelled[-1]), 1 + len(spelled[0])]
    for stretch, content, begin in zip(in_order, spelled, begins, strict=True):
        assert text[begin - 1 :].startswith(content)
        assert stretch == reference([piece for piece, _ in stretch], content, begin)


@pytest.mark.parametrize("conversations", ["template", "plain"])
def test_answers_of_a_conversation_are_told_whatever_stands_around_them(conversations: str) -> None:
    tokenizer = Chopper([1])
    talk = kdtool.Messages((("user", "user"), ("assistant", " ab "), ("user", "ab"), ("assistant", "ab\n")))
    (row,) = rows(numbered(talk), tokenizer, conversations=conversations)
    learned = [
        (piece, place)
        for (piece, place), taught in zip(told(row, tokenizer), row.labelled, strict=False)
        if taught and piece not in {b"", b" ", b"\n"}
    ]
    assert learned == [(b"a", 6), (b"b", 7), (b"a", 11), (b"b", 12)]


def test_columns_are_cut_and_padded_with_the_tokens_and_keys_stay() -> None:
    text = "x = 1\n" * 20
    told_rows = rows(numbered(kdtool.Text(text)), ByteTokenizer(), length=32)
    plain = rows(kdtool.Example("e", kdtool.Text(text)), ByteTokenizer(), length=32)
    assert [row.key for row in told_rows] == [row.key for row in plain]
    together = [place for row in told_rows for place in row.columns["place"]]
    assert together == [*range(1, 121), *[0] * 8]
    assert all(row.columns == {} for row in plain)


def test_places_are_right_where_a_tokenizer_puts_a_space_before_every_text() -> None:
    """Only the first part has that space, and a completion that begins with spaces keeps them."""
    tokenizer = SpacedTokenizer()
    for prompt, completion in (("if x:\n", "    y\n"), ("f(", "a)"), ("", " x")):
        (row,) = rows(numbered(kdtool.Completion(prompt, completion)), tokenizer)
        places = [place for place, number in zip(row.columns["place"], row.document, strict=True) if number >= 0]
        assert places == [0, *range(1, 1 + len(prompt + completion)), 0]
