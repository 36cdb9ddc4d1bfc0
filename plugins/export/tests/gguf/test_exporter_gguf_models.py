"""Every class of model and kind of tokenizer that the exporter `gguf` writes: llama.cpp computes and splits the same."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import kdtool
import pytest
from gguf import GGUFReader, TokenType
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.files import write_gguf
from kdtool_export.gguf.runtime import GGUFRuntime
from kdtool_export.gguf.tokenizers import name_of_splitting
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_reduced, save_starcoder2_tokenizer, tiny_model
from kdtool_transformers import (
    TransformersModel,
    TransformersRuntime,
    TransformersTokenizer,
    open_model,
    open_tokenizer,
    published_config,
)
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "".join(Random(1).choices(string.printable[:94], k=220))
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with an own head": ("llama", {"tie_word_embeddings": False}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with narrow heads": ("llama", {"head_dim": 4}),
    "llama with odd widths": ("llama", {"head_dim": 18, "intermediate_size": 33}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "llama, yarn": ("llama", {"rope_parameters": YARN}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": {**YARN, "attention_factor": 1.3}}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "gpt2": ("gpt2", {"n_inner": 48}),
    "gpt2 with odd heads": ("gpt2", {"hidden_size": 44}),
}


def lively(family: str, **settings: Any) -> TransformersModel:
    """Return a model whose norms and positions matter, with a tokenizer of all its 258 tokens."""
    model = tiny_model(family, layers=2, vocabulary=258, **settings)
    for name, weight in model.model.named_parameters():
        if weight.ndim == 1 and ("norm" in name or "ln_" in name):
            weight.data.mul_(0.5).add_(1)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate([*alphabet, "er"])}, [("e", "r")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return TransformersModel(
        model.model, TransformersTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end))
    )


@pytest.mark.parametrize(("family", "settings"), MODELS.values(), ids=MODELS)
def test_llama_cpp_computes_what_the_model_does(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = lively(family, **settings)
    file = write_gguf(model, tmp_path / "a.gguf", name="tiny")
    (expected,) = TransformersRuntime(model).score([TEXT])
    with GGUFRuntime(file, context=256, threads=1) as opened:
        (found,) = opened.score([TEXT])
    assert found.tokens == expected.tokens
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=5e-4)
    field = GGUFReader(file).get_field("general.name")
    assert field is not None
    assert field.contents() == "tiny"


def test_context_ends_with_the_window_that_llama_cpp_does_not_slide(tmp_path: Path) -> None:
    told = GGUFReader(
        write_gguf(tiny_model("mistral", layers=1, vocabulary=260, sliding_window=96), tmp_path / "a.gguf")
    )
    found = {name: told.get_field(f"llama.{name}") for name in ("context_length", "attention.sliding_window")}
    assert [field.contents() for field in found.values() if field is not None] == [96, 96]


@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        ("gemma2", {}, "the class gemma2 cannot be written as GGUF here, only llama, mistral, qwen2"),
        ("llama", {"hidden_act": "gelu"}, "a llama with hidden_act gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type dynamic"),
        ("llama", {"rope_parameters": {**YARN, "truncate": False}}, "truncate False"),
        ("starcoder2", {"head_dim": 4}, "heads that are 16 wide with a hidden size of 32"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
    ],
)
def test_what_llama_cpp_lacks_is_refused(family: str, settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=said):
        write_gguf(tiny_model(family, layers=1, vocabulary=260, **settings), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEEPSEEK = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")
END = "<|endoftext|>"
SPECIAL = [END, "<|begin_of_text|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


def split_by(*expressions: str, digits: bool = False) -> Any:
    steps: list[Any] = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions]
    steps += [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(splitting: Any, *, whole_words: bool = False, composes: bool = False) -> TransformersTokenizer:
    """Return a byte-level tokenizer that splits so, trained on this file."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = splitting
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    text = Path(__file__).read_text(encoding="utf-8")
    inner.train_from_iterator([text, "12 123 1234 00 I'm we'll THEY'RE 日本語 " * 99], trainer)
    content = json.loads(inner.to_str())
    content["model"]["ignore_merges"] = whole_words
    content["normalizer"] = {"type": "NFC"} if composes else None
    inner = Tokenizer.from_str(json.dumps(content))
    return TransformersTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END))


BYTE_LEVEL: dict[str, Callable[[], TransformersTokenizer]] = {
    "gpt-2": lambda: train(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm": lambda: train(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    "llama-bpe": lambda: train(split_by(WORDS % r"\p{N}{1,3}"), whole_words=True),
    "smaug-bpe": lambda: train(split_by(WORDS % r"\p{N}{1,3}")),
    "qwen2": lambda: train(split_by(WORDS % r"\p{N}"), composes=True),
    "deepseek-coder": lambda: train(split_by(*DEEPSEEK, digits=True)),
}


def check(tokenizer: TransformersTokenizer, folder: Path) -> None:
    """Check a student with this tokenizer, and with rows beyond it, as before training."""
    student = tiny_model(layers=1, vocabulary=tokenizer.vocabulary + 3)
    student.tokenizer = tokenizer
    student.save(folder / "student")
    GGUF(GGUF.Config()).kdtool_check(make_run(folder, untrained=folder / "student"), "student")


def told_by(file: Path, *names: str) -> list[Any]:
    reader = GGUFReader(file)
    fields = [reader.get_field(f"tokenizer.ggml.{name}") for name in names]
    return [None if field is None else field.contents() for field in fields]


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_tokenizers_split_alike(name: str, tmp_path: Path) -> None:
    tokenizer = BYTE_LEVEL[name]()
    assert name_of_splitting(tokenizer) == name
    check(tokenizer, tmp_path)


def code_llama(folder: Path, *, infilling: bool = False, prepend: bool = False) -> TransformersTokenizer:
    """Return a tokenizer like Code Llama's: as transformers 5 makes it, or as its tokenizer.json was published."""
    folder.mkdir()
    save_code_llama_tokenizer(folder, 600, 200_000, infilling=infilling)
    if not prepend:
        return open_tokenizer(folder, offline=True)
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return TransformersTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>"))


@pytest.mark.parametrize("prepend", [False, True])
@pytest.mark.parametrize("infilling", [False, True])
def test_sentencepiece_splits_alike(prepend: bool, infilling: bool, tmp_path: Path) -> None:
    check(code_llama(tmp_path / "tokenizer", infilling=infilling, prepend=prepend), tmp_path)


def test_sentencepiece_without_a_space_before_splits_alike(tmp_path: Path) -> None:
    tokenizer = code_llama(tmp_path / "tokenizer", prepend=True)
    tokenizer.inner.backend_tokenizer.normalizer = normalizers.Replace(" ", "▁")
    check(tokenizer, tmp_path)


def test_sentencepiece_is_written_with_scores_bytes_and_marks(tmp_path: Path) -> None:
    model = tiny_model(layers=1, vocabulary=603)
    model.tokenizer = code_llama(tmp_path / "tokenizer", infilling=True)
    file = write_gguf(model, tmp_path / "a.gguf")
    kind, tokens, kinds, scores = told_by(file, "model", "tokens", "token_type", "scores")
    assert kind == "llama"
    assert tokens[600:] == ["[PAD600]", "[PAD601]", "[PAD602]"]
    named = {token: TokenType(kind).name for token, kind in zip(tokens, kinds, strict=True)}
    some = ("<unk>", "<s>", "<0x0A>", "▁<PRE>", "er", "[PAD600]")
    assert [named[token] for token in some] == ["CONTROL", "CONTROL", "BYTE", "CONTROL", "NORMAL", "UNUSED"]
    merged = [
        score for score, kind in zip(scores, kinds, strict=True) if kind == TokenType.NORMAL and score > min(scores)
    ]
    assert merged == sorted(merged, reverse=True)
    marks = ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id", "eot_token_id")
    assert [tokens[number] for number in told_by(file, *marks)] == ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    flags = told_by(file, "bos_token_id", "eos_token_id", "unknown_token_id", "add_bos_token", "add_eos_token")
    assert flags == [1, 2, 0, True, False]
    assert told_by(file, "add_space_prefix") == [True]


def shuffle_merges(content: dict[str, Any]) -> None:
    content["model"]["merges"].sort(key=lambda pair: len(pair[0]))


def lowercase(content: dict[str, Any]) -> None:
    content["normalizer"]["normalizers"].append({"type": "Lowercase"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shuffle_merges, "merges in another order than sentencepiece"),
        (lowercase, "changes or splits text in another way than sentencepiece"),
    ],
)
def test_other_tokenizers_with_bytes_are_refused(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    content = json.loads(code_llama(tmp_path / "a", prepend=True).inner.backend_tokenizer.to_str())
    change(content)
    inner = Tokenizer.from_str(json.dumps(content))
    inner.post_processor = processors.TemplateProcessing(single="$A")
    with pytest.raises(kdtool.UsageError, match=said):
        check(TransformersTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")), tmp_path)


def save_llama3(folder: Path, *_: int) -> None:
    tokenizer = BYTE_LEVEL["llama-bpe"]().inner.backend_tokenizer
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=END).save_pretrained(folder)


@pytest.mark.parametrize(
    ("model", "save_tokenizer"),
    [
        pytest.param(
            "codellama/CodeLlama-7b-hf",
            partial(save_code_llama_tokenizer, infilling=True),
            id="code-craft and claude-codellama",
        ),
        pytest.param("codellama/CodeLlama-7b-Python-hf", save_starcoder2_tokenizer, id="starcoder2-mini-gpt"),
        pytest.param(
            "codellama/CodeLlama-7b-Python-hf", partial(save_code_llama_tokenizer, infilling=False), id="smallcoder"
        ),
        pytest.param("meta-llama/Llama-3.2-1B", save_llama3, id="codellama-web"),
        pytest.param("bigcode/starcoder2-3b", save_starcoder2_tokenizer, id="StarCoder2 itself"),
        pytest.param(
            "mistralai/Mistral-7B-v0.1", partial(save_code_llama_tokenizer, infilling=False), id="Mistral itself"
        ),
    ],
)
def test_a_student_of_every_system_is_the_same_model_in_llama_cpp(
    model: str, save_tokenizer: Callable[[Path, int, int], None], tmp_path: Path
) -> None:
    known = published_config(model)
    folder = tmp_path / "student"
    window = {"sliding_window": 512} if "sliding_window" in known else {}
    save_reduced(folder, known, vocab_size=600, **window)
    save_tokenizer(folder, 600, 200_000)
    exporter = GGUF(GGUF.Config(type="f32"))
    exporter.kdtool_check(make_run(tmp_path, untrained=folder), "student")
    file = exporter.kdtool_export(make_run(tmp_path), folder).path
    student = open_model(folder, offline=True)
    shutil.rmtree(folder)
    texts = ["def größe(x):\n    return x + 12345  # 日本語\n" * 3, " x", ""]
    expected = TransformersRuntime(student).score(texts)
    with GGUFRuntime(file, context=256, threads=1) as opened:
        for found, score in zip(opened.score(texts), expected, strict=True):
            assert (found.tokens, found.bytes) == (score.tokens, score.bytes)
            assert found.log_likelihood == pytest.approx(score.log_likelihood, rel=2e-3, abs=1e-6)
