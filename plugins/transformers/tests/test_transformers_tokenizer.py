"""Bytes of tokens, which together are the text, and the start of documents, for tokenizers as published ones are made.

Infilling prompts with every family's FIM tokens, and answers that repeat what stands behind the middle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from kdtool_testing.model_checks import check_tokenizer
from kdtool_testing.tiny_models import (
    begin_texts_with,
    save_code_llama_tokenizer,
    save_starcoder2_tokenizer,
    tiny_config,
    tiny_model,
)
from kdtool_transformers import (
    CODE_LLAMA,
    SUFFIX_FIRST,
    TransformersModel,
    TransformersRuntime,
    TransformersTokenizer,
    byte_tokenizer,
    open_tokenizer,
    trim_suffix,
    with_fim_tokens,
)
from kdtool_transformers.generation import prompt_ids
from kdtool_transformers.prompts import FIM_FAMILIES, Infilling, overlap
from kdtool_transformers.tokenizer_json import Pieces
from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast


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
    line = tuple(plain.encode("\n"))
    assert {name: tokenizer.scoring_context for name, tokenizer in found.items()} == {
        "llama": (1,), "bytes": line, "starcoder": tuple(starcoder.encode("\n")), "two": (257, 258), "behind": line,
        "around": (256,),
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


BEFORE, AFTER = "def f(x):\n    return ", "\n\nf(1)\n"
CODE = st.text("ab1 ()\n", max_size=12)


def _marked(family: Infilling) -> TransformersTokenizer:
    """Return a tokenizer of bytes with the FIM tokens of a family."""
    tokenizer = byte_tokenizer()
    inner = Tokenizer.from_str(tokenizer.inner.backend_tokenizer.to_str())
    inner.add_special_tokens([AddedToken(mark, special=True) for mark in family.tokens])
    return TransformersTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=tokenizer.inner.eos_token))


@pytest.mark.parametrize(
    "family", [family for family in FIM_FAMILIES if family is not CODE_LLAMA], ids=lambda one: one.prefix
)
def test_a_gap_is_written_in_the_marks_of_each_family(family: Infilling) -> None:
    tokenizer = _marked(family)
    ids = prompt_ids(tokenizer, kdtool.Request("1", BEFORE, 4, suffix=AFTER))
    code, rest = (f"{family.prefix}{BEFORE}", f"{family.suffix}{AFTER}{family.middle}")
    if family is SUFFIX_FIRST:
        code, rest = f"{family.prefix}{rest}", BEFORE
    assert ids == tokenizer.encode_template(code + rest)
    assert tokenizer.decode(ids) == (AFTER + BEFORE if family is SUFFIX_FIRST else BEFORE + AFTER)
    marks = {tokenizer.encode_template(mark)[0] for mark in family.tokens}
    assert marks < set(tokenizer.infilling_ends) == {*tokenizer.end_ids, *marks}


def test_a_tokenizer_without_marks_refuses_a_suffix() -> None:
    runtime = TransformersRuntime(tiny_model())
    assert "infill" not in runtime.abilities
    request = kdtool.Request("1", BEFORE, 4, suffix=AFTER)
    for attempt in (runtime.stream(request), runtime.answer([request])):
        with pytest.raises(kdtool.UsageError, match=r"none of the FIM tokens that kdtool knows.*leave the suffix out"):
            list(attempt)
    with pytest.raises(kdtool.UsageError, match="both turns and a suffix"):
        prompt_ids(byte_tokenizer(), kdtool.Request("1", "", 4, turns=(("user", "a"),), suffix=""))


def test_a_mark_ends_what_fills_a_gap() -> None:
    family = FIM_FAMILIES[0]
    model = tiny_model(vocabulary=257 + len(family.tokens), tie_word_embeddings=False)
    tokenizer = _marked(family)
    runtime = TransformersRuntime(TransformersModel(model.model, tokenizer))
    assert "infill" in runtime.abilities
    request = kdtool.Request("1", BEFORE, 60, suffix=AFTER)
    (whole,) = runtime.answer([request])
    assert whole.tokens_out > 0
    with torch.no_grad():
        states = model.model.base_model(torch.tensor([prompt_ids(tokenizer, request)])).last_hidden_state[0, -1]
        model.model.get_output_embeddings().weight[tokenizer.encode_template(family.prefix)[0]] = 100 * states
    (ended,) = runtime.answer([request])
    assert (ended.finish, ended.text, ended.tokens_out) == ("stop", "", 0)
    assert list(runtime.stream(request))[-1] == kdtool.TextPiece("", ended.tokens_in, 0, "stop")


@pytest.mark.parametrize(
    ("answer", "suffix", "kept", "kept_if_cut"),
    [
        ("x + 1\n    return x", "\n    return x\n", "x + 1", "x + 1"),
        ("x + 1\n    return x\n", "\n    return x\n", "x + 1", "x + 1"),
        ("    y = 1\n    return x\n", "    return x\n", "    y = 1\n", "    y = 1\n"),
        ("a)\n\nprint(1)\n", ")\n\nprint(1)\n", "a", "a"),
        ("return x\n", "return x\n", "", ""),
        ("g(y)", ")\n", "g(y)", "g(y)"),
        ("1\n", "\nprint(1)\n", "1\n", "1\n"),
        ("g(2, 1)", ", 1)\n", "g(2, 1)", "g(2, 1)"),
        ("encode(", "encode(s))\n", "encode(", ""),
        ("    if y:\n        return x\n", "    return x\n", *2 * ["    if y:\n        return x\n"]),
        ("x\n    return to", "\n    return total\n", "x\n    return to", "x"),
        ("anything", "", "anything", "anything"),
        ("", "anything", "", ""),
    ],
)
def test_a_repeated_line_is_trimmed_and_code_that_looks_alike_stays(
    answer: str, suffix: str, kept: str, kept_if_cut: str
) -> None:
    assert (trim_suffix(answer, suffix), trim_suffix(answer, suffix, cut=True)) == (kept, kept_if_cut)


@given(CODE, CODE, st.booleans())
def test_only_a_beginning_of_the_suffix_is_trimmed(answer: str, suffix: str, cut: bool) -> None:
    kept = trim_suffix(answer, suffix, cut=cut)
    trimmed = answer[len(kept) :]
    assert answer == kept + trimmed
    assert suffix.startswith(trimmed)
    assert len(trimmed) in (0, overlap(answer, suffix))
    assert not trimmed or any(letter.isalnum() for letter in trimmed)
    assert not any(answer.endswith(suffix[:size]) for size in range(overlap(answer, suffix) + 1, len(suffix) + 1))


def test_unused_tokens_become_fim_tokens_which_are_saved(tmp_path: Path) -> None:
    save_starcoder2_tokenizer(tmp_path, 600, 100_000)
    (tmp_path / "config.json").write_text('{"model_type": "starcoder2"}', encoding="utf-8")
    text = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    for mark in FIM_FAMILIES[0].tokens:
        text = text.replace(f'"{mark}"', f'"<spare_{mark[5:-1]}>"')
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    for file in (tmp_path / "tokenizer_config.json", tmp_path / "special_tokens_map.json"):
        file.unlink(missing_ok=True)
    bare = open_tokenizer(tmp_path)
    spare = [f"<spare_{name}>" for name in ("prefix", "suffix", "middle")]
    ids = [bare.inner.convert_tokens_to_ids(token) for token in spare]
    renamed = with_fim_tokens(bare, spare)
    assert renamed.infilling == SUFFIX_FIRST
    spelt = "<spm_prefix><spm_suffix>after<spm_middle>before"
    assert renamed.encode_infilling_prompt("before", "after") == renamed.encode_template(spelt)
    assert renamed.encode_infilling("before", "", "after", suffix_first=True) == [
        *renamed.encode_template(spelt),
        bare.end_of_text,
    ]
    assert renamed.vocabulary == bare.vocabulary
    assert [renamed.inner.convert_tokens_to_ids(token) for token in SUFFIX_FIRST.tokens] == ids
    assert renamed.encode(BEFORE) == bare.encode(BEFORE)
    renamed.save(tmp_path / "saved")
    assert open_tokenizer(tmp_path / "saved").fingerprint == renamed.fingerprint != bare.fingerprint
    with pytest.raises(kdtool.UsageError, match="already; remove fim_tokens"):
        with_fim_tokens(renamed, spare)
    for wrong in (["def", *spare[1:]], [spare[0], spare[0], spare[1]]):
        with pytest.raises(kdtool.UsageError, match=r"must be three special tokens .* without another purpose"):
            with_fim_tokens(bare, wrong)


def test_a_prompt_that_an_editor_wrote_for_the_model_is_read_with_its_tokens(
    tokenizers: dict[str, TransformersTokenizer],
) -> None:
    tokenizer = tokenizers["starcoder2"]
    written = "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>"
    assert prompt_ids(tokenizer, kdtool.Request("0", written, 9)) == tokenizer.encode_infilling_prompt("def f(", "):\n")
    for text in ("END = '<fim_middle>'", f"{written}\n# which is how a gap is written"):
        assert tokenizer._marks.keys().isdisjoint(prompt_ids(tokenizer, kdtool.Request("0", text, 9)))
