"""The exporter `gguf`: llama.cpp reads what it writes as the same model, and what llama.cpp says is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import kdtool
import pytest
from gguf import GGUFReader, TokenType
from gguf_students import TEXTS, save_student
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.files import write_gguf
from kdtool_export.gguf.runtime import GGUFRuntime
from kdtool_testing import ExporterConformance, make_run
from kdtool_testing.tiny_models import begin_texts_with, save_tiny, tiny_model
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


class TestGGUF(ExporterConformance):
    component = GGUF
    entry_point = "gguf"

    def write_student(self, folder: Path) -> Path:
        save_student(folder)
        return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def runtime(student: TransformersModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFRuntime]:
    file = write_gguf(student, tmp_path_factory.mktemp("written") / "student.gguf")
    file.with_name("numpy.py").write_text("raise SystemExit('code of a model')", encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(file.parent)
        with GGUFRuntime(file, context=4096, threads=1) as opened:
            yield opened


def test_scores_are_the_model_s_own(student: TransformersModel, runtime: GGUFRuntime) -> None:
    long = "".join(TEXTS) * 12  # more than the context of 512
    texts = [*TEXTS, long, long]
    scores = list(runtime.score(texts))
    assert scores[-1] == scores[-2]
    for found, expected in zip(scores, TransformersRuntime(student).score(texts), strict=True):
        assert (found.tokens, found.bytes) == (expected.tokens, expected.bytes)
        assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=5e-3)


def test_answers_are_the_model_s_own(student: TransformersModel, runtime: GGUFRuntime) -> None:
    turns = (("user", "hello"),)
    requests = [
        kdtool.Request("continued", "def f(x", 12),
        kdtool.Request("empty", "", 6),
        kdtool.Request("stopped", "def g(", 20, stop=("e", ")")),
        kdtool.Request("asked", "", 8, turns=turns),
        kdtool.Request("begun", "The", 8, turns=turns),
    ]
    found = {answer.id: answer for answer in runtime.answer(requests)}
    for expected in TransformersRuntime(student).answer(requests):
        assert found[expected.id].text == expected.text
        assert found[expected.id].finish == expected.finish
        assert found[expected.id].tokens_in == expected.tokens_in


def test_what_is_drawn_follows_from_the_seed(runtime: GGUFRuntime) -> None:
    requests = [kdtool.Request(str(n), "x = ", 12, temperature=0.9, seed=n // 2) for n in range(8)]
    texts = [answer.text for answer in runtime.answer(requests)]
    assert texts[::2] == texts[1::2]
    assert len(set(texts)) > 1


def test_without_a_template_there_is_no_conversation(tmp_path: Path) -> None:
    file = write_gguf(save_student(tmp_path / "plain", template=None), tmp_path / "plain.gguf")
    with GGUFRuntime(file, context=128, threads=1) as opened:
        assert opened.abilities == {"continue", "score"}


def test_a_prompt_that_does_not_fit_is_refused_and_the_next_one_answered(runtime: GGUFRuntime) -> None:
    turns = (("user", "é" * 4000),)
    requests = [kdtool.Request("long", "é" * 4000, 4), kdtool.Request("chat", "", 4, turns=turns)]
    found = list(runtime.answer([*requests, kdtool.Request("short", "x", 4)]))
    assert [(one.id, one.finish) for one in found[:2]] == [("long", "refused"), ("chat", "refused")]
    assert not found[0].text
    assert found[2].tokens_out > 0


@pytest.mark.parametrize("content", [b"GGUF", b"GGUF" + bytes(100)])
def test_a_broken_file_is_refused_with_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    exporter = GGUF(GGUF.Config())
    with pytest.raises(kdtool.UsageError, match=r"llama\.cpp does not open .*broken\.gguf"):
        exporter.kdtool_open(make_run(tmp_path), kdtool.Subject("a", "artifact", tmp_path / "broken.gguf"))


def test_nobody_is_answered_without_the_key(runtime: GGUFRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.server._address.startswith("127.0.0.1:")
    monkeypatch.setattr(runtime.server, "_key", "another")
    with pytest.raises(kdtool.UsageError, match="Invalid API Key"):
        list(runtime.answer([kdtool.Request("a", "x", 2)]))


def set_normalizer(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.Sequence([normalizers.NFKC()])


def split_nothing(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def swallow_spaces(backend: Tokenizer) -> None:
    backend.add_tokens([AddedToken("~", lstrip=True)])


def split_at_spaces(backend: Tokenizer) -> None:
    backend.pre_tokenizer = pre_tokenizers.Whitespace()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_normalizer, r"the normalizer Sequence .*: take a tokenizer that has none, or export safetensors"),
        (split_nothing, r"does not know; expected .*; export safetensors"),
        (split_at_spaces, r"convert_hf_to_gguf\.py"),
        (swallow_spaces, r"the added token '~' that takes white space .*: take a tokenizer .*, or export safetensors"),
        (None, r"vocabulary is full at 257: give the model more rows"),  # no room for the merge that the format wants
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_follow_is_refused_before_training(
    change: Callable[[Tokenizer], None] | None, said: str, tmp_path: Path
) -> None:
    if change is None:
        save_tiny(tmp_path / "student", vocabulary=257)
    else:
        student = save_student(tmp_path / "student")
        change(student.tokenizer.inner.backend_tokenizer)
        student.tokenizer.save(tmp_path / "student")
    with pytest.raises(kdtool.UsageError, match=said):
        GGUF(GGUF.Config()).kdtool_check(make_run(tmp_path, untrained=tmp_path / "student"), "student")


def save_marked(folder: Path) -> TransformersModel:
    """Write a student that names no end, with added tokens of each kind and rows without a token."""
    inner = save_student(folder).tokenizer.inner.backend_tokenizer
    inner.add_tokens([AddedToken("<tool>"), AddedToken("    return", normalized=False)])
    inner.add_special_tokens(["<fim_prefix>", "<|fim_pad|>"])  # llama.cpp takes the second for an answer's end
    save_tiny(folder, vocabulary=330, hidden_size=64, head_dim=16)
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(folder)
    return open_model(folder, offline=True)


def test_added_tokens_are_the_student_s_own_within_text(tmp_path: Path) -> None:
    student = save_marked(tmp_path / "student")
    exporter = GGUF(GGUF.Config(type="f32"))
    exporter.kdtool_check(make_run(tmp_path, untrained=tmp_path / "student"), "student")
    file = exporter.kdtool_export(make_run(tmp_path), tmp_path / "student").path
    told = GGUFReader(file)
    tokens, kinds = (told.get_field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "token_type"))
    found = {token: TokenType(kind).name for token, kind in zip(tokens, kinds, strict=True) if kind != TokenType.NORMAL}
    assert found == {
        "<|endoftext|>": "CONTROL",
        "<tool>": "USER_DEFINED",
        "    return": "USER_DEFINED",
        "<fim_prefix>": "CONTROL",
        "<|fim_pad|>": "CONTROL",
        **{f"[PAD{number}]": "UNUSED" for number in range(324, 330)},
    }
    assert told.get_field("tokenizer.ggml.eos_token_id").contents() == student.tokenizer.end_of_text
    text = "<fim_prefix>def f(x):\n    return x<tool>y<|fim_pad|>z<|endoftext|>"
    (expected,) = TransformersRuntime(student).score([text])
    with GGUFRuntime(file, context=128, threads=1) as opened:
        (score,) = opened.score([text])
    assert (score.tokens, score.bytes) == (expected.tokens, expected.bytes)
    assert score.log_likelihood == pytest.approx(expected.log_likelihood, rel=5e-3)


def test_how_much_fits_is_known_without_a_model(runtime: GGUFRuntime, student: TransformersModel) -> None:
    assert runtime.context == 512
    assert [runtime.count(text) for text in TEXTS] == [len(student.tokenizer.encode(text)) for text in TEXTS]


def test_llama_cpp_begins_a_text_as_the_student_does(tmp_path: Path) -> None:
    student = tiny_model(vocabulary=321, hidden_size=64, head_dim=16)
    student.tokenizer = begin_texts_with(save_student(tmp_path / "plain").tokenizer, "<s>")
    (start,) = student.tokenizer.document_start
    file = write_gguf(student, tmp_path / "begun.gguf", pre="gpt-2")
    told = GGUFReader(file)
    assert told.get_field("tokenizer.ggml.add_bos_token").contents() is True
    assert told.get_field("tokenizer.ggml.bos_token_id").contents() == start
    expected = TransformersRuntime(student)
    requests = [kdtool.Request("a", "def f", 6), kdtool.Request("empty", "", 3), kdtool.Request("begun", "<s>def f", 6)]
    with GGUFRuntime(file, context=128, threads=1) as opened:
        for text, score, other in zip(TEXTS, opened.score(TEXTS), expected.score(TEXTS), strict=True):
            assert (score.tokens, score.bytes) == (other.tokens, other.bytes), text
            assert score.log_likelihood == pytest.approx(other.log_likelihood, rel=5e-3), text
        found = {answer.id: (answer.text, answer.tokens_in) for answer in opened.answer(requests)}
    assert found == {answer.id: (answer.text, answer.tokens_in) for answer in expected.answer(requests)}
