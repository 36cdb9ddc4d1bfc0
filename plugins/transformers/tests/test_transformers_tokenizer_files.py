"""tokenizer.json is the truth: whatever class tokenizer_config.json names, texts become the ids that the file gives.

Files and chat templates that lie or never end are refused.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_starcoder2_tokenizer, save_tiny
from kdtool_transformers import TransformersTokenizer, byte_tokenizer, open_model, open_tokenizer
from tokenizers import AddedToken, Tokenizer

CLASSES = (
    *("GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer", "CodeGenTokenizer", "CohereTokenizer", "RobertaTokenizer"),
    *("BloomTokenizerFast", "OPTTokenizer", "Phi3Tokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"),
)
ODD = [
    *("How are you doing? it's we'll", "def fib(n):\n    if n < 2:\n        return n\n", "   leading", "x = 12345"),
    *(
        "a\r\n\tb",
        "naïve É e\u0301",
        "\u2028\x0b\x0c\x85\x1c",
        "日本語 한국어 😀 👩‍👩‍👧",
        "\ufeff\u200b\u00a0",
        "½ ² ﬁ ①",
    ),
    *("  \n\n  x  \n", "< s> <|x|>"),
]


def write(folder: Path, cls: str, change: Callable[[dict[str, Any]], Any], sentencepiece: bool = False) -> Tokenizer:
    """Write a folder's tokenizer as this class's, changed; return what the file says."""
    if sentencepiece:
        save_code_llama_tokenizer(folder, 1200, 400_000, infilling=False)
    else:
        save_starcoder2_tokenizer(folder, 600, 200_000)
    file, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    about = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**about, "tokenizer_class": cls}), encoding="utf-8")
    return Tokenizer.from_file(str(file))


def begin_with_a_mark(content: dict[str, Any]) -> None:
    start = {"SpecialToken": {"id": "<repo_name>", "type_id": 0}}
    body, special = {"Sequence": {"id": "A", "type_id": 0}}, content["model"]["vocab"]["<repo_name>"]
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": [start, body], "pair": [body, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<repo_name>": {"id": "<repo_name>", "ids": [special], "tokens": ["<repo_name>"]}},
    }  # fmt: skip


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "as it is": lambda content: None,
    "composed": lambda content: content.update(normalizer={"type": "NFC"}),
    "whole words first": lambda content: content["model"].update(ignore_merges=True),
    "a mark before a text": begin_with_a_mark,
    "a space before a text": lambda content: content.update(
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    ),
}


def check(folder: Path, stored: Tokenizer) -> None:
    opened = open_tokenizer(folder)
    for text in ODD:
        assert opened.encode(text) == stored.encode(text, add_special_tokens=False).ids, text
    without = len(stored.encode("x", add_special_tokens=False).ids)
    assert list(opened.document_start) == stored.encode("x").ids[:-without]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cls", CLASSES)
def test_a_class_changes_nothing_of_a_byte_level_file(cls: str, change: str, tmp_path: Path) -> None:
    check(tmp_path, write(tmp_path, cls, CHANGES[change]))


@pytest.mark.parametrize("cls", ["LlamaTokenizer", "GemmaTokenizer", "PreTrainedTokenizerFast"])
def test_a_file_that_puts_no_space_before_a_text_is_read_so(cls: str, tmp_path: Path) -> None:
    def without_prepend(content: dict[str, Any]) -> None:
        content["normalizer"]["normalizers"] = content["normalizer"]["normalizers"][1:]
        content["decoder"]["decoders"] = content["decoder"]["decoders"][:3]

    check(tmp_path, write(tmp_path, cls, without_prepend, sentencepiece=True))


def test_a_tokenizer_that_cannot_be_opened_as_stored_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "GPTNeoXTokenizer", CHANGES["as it is"])
    monkeypatch.setattr("kdtool_transformers.opening._differing", lambda *_: ["normalizer"])
    with pytest.raises(kdtool.UsageError, match="transformers replaces its normalizer by others"):
        open_tokenizer(tmp_path)


DATA = Path(os.environ.get("KDTOOL_SHARED_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
ENDS = {
    "qwen3": "<|im_end|>",
    "deepseek_v3": "<｜end▁of▁sentence｜>",
    "gptoss": "<|return|>",
    "gemma3": "<end_of_turn>",
    "llama2": "</s>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "gpt4o": "<|endoftext|>",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_a_published_tokenizer_is_read_as_its_file_says(name: str, tmp_path: Path) -> None:
    folder = DATA / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: it holds published tokenizers, which are not part of the project")
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((folder / "tokenizer.json.gz").read_bytes()))
    shutil.copy(folder / "tokenizer_config.json", tmp_path)
    opened, stored = open_tokenizer(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    lines = [f"{ODD[i % len(ODD)]}{chr(0x20 + 7 * i)}{ODD[(i // 7) % len(ODD)]} {i:x}" for i in range(2000)]
    texts = [line.encode("utf-8", "ignore").decode() for line in lines]
    assert opened.encode_batch(texts) == [each.ids for each in stored.encode_batch(texts, add_special_tokens=False)]
    assert stored.token_to_id(ENDS[name]) in opened.end_ids
    for turns in (
        [("user", "Fix it."), ("assistant", "Done.")],
        [("system", "Be brief."), ("user", "Fix it."), ("assistant", "Done."), ("user", "Go on."), ("assistant", "a")],
    ):
        encoded = opened.encode_chat(turns)
        if encoded is None:
            continue  # DeepSeek-V3's file is without its template
        ids, labelled = encoded
        messages = [{"role": role, "content": content} for role, content in turns]
        if name != "gptoss":  # whose text has the date
            whole = opened.inner.apply_chat_template(messages, tokenize=False)
            assert stored.decode(ids, skip_special_tokens=False) == whole
        learned = [index for index, is_learned in zip(ids, labelled, strict=True) if is_learned]
        assert stored.decode(learned, skip_special_tokens=False).endswith(f"{turns[-1][1]}{ENDS[name]}")


def test_control_tokens_without_a_row_of_the_model_are_plain_text(tmp_path: Path) -> None:
    """As that of images in the tokenizer of Gemma 3's text models, one more than their embedding has rows."""
    rows = save_tiny(tmp_path, vocabulary=264).facts.vocabulary
    file = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_tokens([f"<word{number}>" for number in range(264 - rows)])
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    assert tokenizer.token_to_id("<image>") == 264
    tokenizer.save(str(file))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "image_token": "<image>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    model = open_model(tmp_path)
    model.save(tmp_path / "student")
    for opened in (model.tokenizer, open_tokenizer(tmp_path / "student")):
        assert opened.vocabulary == len(opened.tokens()) == 264
        assert opened.decode(opened.encode("a <image> b")) == "a <image> b"
    tokenizer.add_tokens(["<word>"])
    tokenizer.save(str(file))
    with pytest.raises(kdtool.UsageError, match="belongs to another model"):
        open_model(tmp_path)


def with_parts(**values: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "tokenizer.json"
        file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **values}), "utf-8")

    return write


def nest(folder: Path) -> None:
    text = '{"type":"Sequence","normalizers":[' * 5000 + '{"type":"Lowercase"}' + "]}" * 5000
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**content, "normalizer": "HERE"}).replace('"HERE"', text), "utf-8")


def enlarge(folder: Path) -> None:
    os.truncate(folder / "tokenizer.json", 1_000_000_000)  # sparse


BOMB = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000} for _ in range(5)]
SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
TOKENIZERS: list[tuple[Callable[[Path], None], str]] = [
    (nest, "its tokenizer cannot be opened: .*recursion"),
    (enlarge, r"tokenizer\.json has 1,000,000,000 bytes"),
    (with_parts(normalizer={"type": "Sequence", "normalizers": BOMB}), r"json .* makes a text 1e\+15 times as long"),
    (with_parts(decoder={"type": "Sequence", "decoders": BOMB}), r"json .* makes a text 1e\+15 times as long"),
    (with_parts(pre_tokenizer=SPLIT), r"tokenizer\.json .* cannot encode a text: .*retry-limit"),
    (with_parts(model={"type": "BPE"}), "its tokenizer cannot be opened"),
]


@pytest.mark.parametrize(("damage", "reason"), TOKENIZERS)
def test_a_tokenizer_that_lies_or_never_ends_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    save_tiny(tmp_path)
    damage(tmp_path)
    with pytest.raises(kdtool.KdtoolError, match=reason):  # noqa: PT012 - some show it only when they are used
        tokenizer = open_tokenizer(tmp_path, offline=True)
        tokenizer.encode("a" * 40 + "b")
    if "encode" in reason:
        with pytest.raises(kdtool.UsageError, match=reason):
            tokenizer.encode_batch(["a" * 40 + "b"])


LOOP = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9) %}{% endfor %}{% endfor %}{% endfor %}"
)
TEMPLATES = {
    LOOP: "takes more than 5 s",
    "{% if messages|length > 1 %}" + LOOP + "{% endif %}": "takes more than 5 s",
    "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}": "512 MB",
    "{{ 'x' * 10 ** 11 }}": "512 MB",
    "{{ 'x' * 20000000 }}": "writes more than",
    "{% macro again(x) %}{{ again(x) }}{% endmacro %}{{ again(1) }}": "recursion",
    "{% for": "unexpected",
    "{{ raise_exception('no such role') }}": "no such role",
}


@pytest.mark.parametrize(("template", "reason"), [*TEMPLATES.items(), ({"default": 7}, "'int'")])
def test_a_template_that_never_ends_is_stopped(template: Any, reason: str) -> None:
    talking = byte_tokenizer()
    turns = [("user", "hello"), ("assistant", "a")]
    talking.inner.chat_template = template
    again = TransformersTokenizer(talking.inner)
    with pytest.raises(kdtool.UsageError, match=f"chat template of .*{reason}"):
        again.encode_prompt(turns, "")
    talking.inner.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    sound = TransformersTokenizer(talking.inner)
    assert sound.decode(sound.encode_prompt(turns, "")) == "helloa"
