"""Bytes of tokens: together they are the text, for tokenizers as published ones are made."""

from __future__ import annotations

import json
from typing import Any

import kdtool
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_starcoder2_tokenizer, tiny_config
from kdtool_transformers import TransformersTokenizer, byte_tokenizer, open_tokenizer
from kdtool_transformers.tokenizer_json import Pieces


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TransformersTokenizer]:
    """Byte-level with digits apart, single bytes, and sentencepiece with and without marks, and in its older ways."""
    found = {"bytes": byte_tokenizer()}
    for name in ("starcoder2", "codellama", "codellama-marks"):
        folder = tmp_path_factory.mktemp(name)
        if name == "starcoder2":
            save_starcoder2_tokenizer(folder, 600, 100_000)
        else:
            save_code_llama_tokenizer(folder, 616, 100_000, infilling=name.endswith("marks"))
        tiny_config("starcoder2" if name == "starcoder2" else "llama", vocabulary=616).save_pretrained(folder)
        found[name] = open_tokenizer(folder)
    # published as Llama's first ones were, which put a space behind special tokens too, and as a tokenizer of no known class
    for name, changes in (
        ("legacy", {"tokenizer_class": "LlamaTokenizer", "legacy": True}),
        ("as-stored", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ):
        settings_file = folder / "tokenizer_config.json"
        settings_file.write_text(json.dumps(json.loads(settings_file.read_text("utf-8")) | changes), "utf-8")
        found[name] = open_tokenizer(folder)
    return found


_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=40)


@given(text=_TEXTS)
@example(text="")
@example(text=" x")
@example(text="  def f(n):\n\treturn 'é漢👩‍👩‍👧'  # 12 345\n\n")
def test_pieces_are_the_text(text: str, tokenizers: dict[str, TransformersTokenizer]) -> None:
    for name, tokenizer in tokenizers.items():
        ids = tokenizer.encode(text)
        pieces = tokenizer.pieces(ids)
        assert b"".join(pieces) == text.encode(), name
        assert len(pieces) == len(ids)
        # a row may begin anywhere in a document: the bytes are those of what is decoded there
        for cut in range(1, len(ids), 3):
            rest = b"".join(tokenizer.pieces(ids[cut:]))
            if not (rest and rest[0] & 0xC0 == 0x80):  # else it begins within a character, which decoding cannot show
                assert rest.decode() == tokenizer.decode(ids[cut:]), name


@given(before=_TEXTS, text=_TEXTS)
@example(before="def f(a):\n", text="    return a\n")
@example(before="x = f(", text="a, b)")
@example(before=" ", text=" x")
@example(before="", text=" x")
def test_what_stands_behind_a_text_follows_it_as_it_is(
    before: str, text: str, tokenizers: dict[str, TransformersTokenizer]
) -> None:
    for name, tokenizer in tokenizers.items():
        ids = [*tokenizer.encode(before), *tokenizer.encode_behind(before, text)]
        assert tokenizer.decode(ids) == before + text, name
        assert b"".join(tokenizer.pieces(ids)) == (before + text).encode(), name


def test_special_tokens_have_no_bytes(tokenizers: dict[str, TransformersTokenizer]) -> None:
    for name, mark in (("starcoder2", "<fim_prefix>"), ("codellama", "<s>"), ("bytes", "<|endoftext|>")):
        tokenizer = tokenizers[name]
        index = tokenizer.tokens().index(mark)
        assert tokenizer.pieces([index, *tokenizer.encode("a b")])[0] == b""
        assert b"".join(tokenizer.pieces([index, *tokenizer.encode("a b"), index])) == b"a b"


def test_other_kinds_of_tokenizers_are_refused() -> None:
    with pytest.raises(kdtool.UsageError, match="unknown: its decoder is WordPiece"):
        Pieces({"decoder": {"type": "WordPiece"}, "added_tokens": []}, ["a"])
    empty: dict[str, Any] = {"decoder": None}
    with pytest.raises(kdtool.UsageError, match="its decoder is none"):
        Pieces(empty, ["a"])
