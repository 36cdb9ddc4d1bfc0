"""Bytes of tokens, which together are the text, and the start of documents, for tokenizers as published ones are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from kdtool_testing.model_checks import check_tokenizer
from kdtool_testing.tiny_models import (
    begin_texts_with,
    save_code_llama_tokenizer,
    save_starcoder2_tokenizer,
    tiny_config,
)
from kdtool_transformers import TransformersTokenizer, byte_tokenizer, open_tokenizer
from kdtool_transformers.generation import prompt_ids
from kdtool_transformers.tokenizer_json import Pieces
from tokenizers import Tokenizer, processors


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


def test_other_kinds_of_tokenizers_are_refused() -> None:
    with pytest.raises(kdtool.UsageError, match="unknown: its decoder is WordPiece"):
        Pieces({"decoder": {"type": "WordPiece"}, "added_tokens": []}, ["a"])
    empty: dict[str, Any] = {"decoder": None}
    with pytest.raises(kdtool.UsageError, match="its decoder is none"):
        Pieces(empty, ["a"])


def _ending_texts_with(tokenizer: TransformersTokenizer, template: str) -> TransformersTokenizer:
    """The tokenizer with its end of text at other places, which names that as its beginning of text too."""
    end = tokenizer.inner.eos_token
    inner = Tokenizer.from_str(tokenizer.inner.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single=template.replace("E", end), special_tokens=[(end, inner.token_to_id(end))]
    )
    return TransformersTokenizer(
        transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=end, eos_token=end)
    )


def test_a_document_begins_with_what_the_tokenizer_puts_before_a_text(tmp_path: Path) -> None:
    for family in ("llama", "starcoder2"):
        (tmp_path / family).mkdir()
        (tmp_path / family / "config.json").write_text(f'{{"model_type": "{family}"}}', encoding="utf-8")
    save_starcoder2_tokenizer(tmp_path / "starcoder2", 320, 100_000)
    save_code_llama_tokenizer(tmp_path / "llama", 616, 100_000, infilling=True)
    plain, starcoder = byte_tokenizer(), open_tokenizer(tmp_path / "starcoder2")
    found = {
        "llama": open_tokenizer(tmp_path / "llama"),
        "bytes": plain,
        "starcoder": starcoder,  # names a beginning of text, and puts it before none
        "two": begin_texts_with(plain, "[gMASK]", "<sop>"),
        "behind": _ending_texts_with(plain, "$A E"),
        "around": _ending_texts_with(plain, "E $A E"),
    }
    assert {name: tokenizer.document_start for name, tokenizer in found.items()} == {
        "llama": (1,), "bytes": (), "starcoder": (), "two": (257, 258), "behind": (), "around": (256,)
    }  # fmt: skip
    assert {name: tokenizer.scoring_context for name, tokenizer in found.items()} == {
        "llama": (1,), "bytes": (256,), "starcoder": (0,), "two": (257, 258), "behind": (256,), "around": (256,)
    }  # fmt: skip
    for name in ("llama", "bytes", "starcoder", "two"):
        check_tokenizer(found[name], tmp_path / f"{name} saved")
    assert len({found[name].identity for name in ("bytes", "two", "around")}) == 3
    assert found["around"].fingerprint == plain.fingerprint, "text becomes the same ids"


TEMPLATE = "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}<|endoftext|>{% endfor %}"


@pytest.mark.parametrize("template", [TEMPLATE, "{{ bos_token }}" + TEMPLATE])
def test_prompts_begin_once(template: str) -> None:
    tokenizer = begin_texts_with(byte_tokenizer(), "<s>")
    tokenizer.inner.chat_template = template
    tokenizer = TransformersTokenizer(tokenizer.inner)
    start, *_ = tokenizer.document_start
    for request in (
        kdtool.Request("text", "def f", 1),
        kdtool.Request("empty", "", 1),
        kdtool.Request("begun", "<s>def f", 1),
        kdtool.Request("turns", "def", 1, turns=(("user", "write"),)),
    ):
        ids = prompt_ids(tokenizer, request)
        assert (ids[0], ids.count(start)) == (start, 1), request.id
