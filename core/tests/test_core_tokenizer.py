"""Defaults of a tokenizer, derived from its pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import kdtool
import pytest


class Plain(kdtool.Tokenizer):
    """The least that a tokenizer can be: bytes, an end, and a second id of the letter a."""

    vocabulary = 258
    end_of_text = 256
    fingerprint = "plain"

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [b"a" if i == 257 else b"" if i == 256 else bytes([i]) for i in ids]


def test_text_and_names_come_of_pieces() -> None:
    tokenizer = Plain()
    assert tokenizer.decode([*"dé漢".encode(), 256, 257]) == "dé漢a"
    assert tokenizer.decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"
    names = tokenizer.tokens()
    assert len(set(names)) == 258
    assert (names[97], names[256], names[257]) == ("<61>", "<end>", "<plain 257>")


def test_a_plain_tokenizer_has_no_start_template_or_marks() -> None:
    tokenizer = Plain()
    assert (tokenizer.document_start, tokenizer.scoring_context) == ((), (256,))
    assert tokenizer.missing_start([1, 2]) == ()
    assert tokenizer.encode_behind("x = ", "1") == [49]
    assert tokenizer.chat_fingerprint == ""
    assert tokenizer.encode_chat([("user", "hello")]) is None
    assert tokenizer.encode_infilling("a", "b", "c", False) is None


def test_what_cannot_be_saved_says_what_to_implement(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"Plain .*; implement Tokenizer\.save"):
        Plain().save(tmp_path)


@pytest.mark.parametrize("missing", ["vocabulary", "end_of_text", "fingerprint", "encode", "pieces"])
def test_what_every_tokenizer_needs_cannot_be_left_out(missing: str) -> None:
    rest = {name: value for name, value in vars(Plain).items() if name != missing and not name.startswith("_")}
    with pytest.raises(TypeError, match=missing):
        type("Part", (kdtool.Tokenizer,), rest)()
