"""Tiny models with random weights, and tokenizers as published ones are made, for tests of plugins on transformers.

Needs the extra `transformers` of kdtool-testing.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

import kdtool
import torch
import transformers
from kdtool_torch import isolated_rng
from kdtool_transformers import TransformersModel, TransformersTokenizer, byte_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_CODE_LLAMA_FIM_TOKENS = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]


def tiny_config(family: str = "llama", layers: int = 4, vocabulary: int = 257, **settings: Any) -> Any:
    """Return a small configuration of a family: llama, qwen2, starcoder2, gpt2, gemma2, granite or cohere."""
    config_class = transformers.AutoConfig.for_model(family).__class__
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family != "gpt2":
        sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return config_class(**{**sizes, **settings})


def tiny_model(family: str = "llama", layers: int = 4, seed: int = 0, **settings: Any) -> TransformersModel:
    """Return a small model with weights of standard deviation 0.25, so that its logits differ from each other."""
    with isolated_rng(seed):
        model = transformers.AutoModelForCausalLM.from_config(tiny_config(family, layers, **settings))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
    return TransformersModel(model.eval(), byte_tokenizer(family))


def packed_batch(rows: int = 2, length: int = 48, device: torch.device | None = None) -> kdtool.Batch:
    """Return rows of random tokens for `tiny_model`, two documents in each, every position labelled."""
    ids = torch.randint(257, (rows, length), generator=torch.Generator().manual_seed(1)).to(device)
    half = torch.arange(length // 2, device=device)
    return kdtool.Batch(
        input_ids=ids,
        positions=torch.cat([half, half]).expand(rows, length),
        labels=ids,
        document=torch.cat([0 * half, 0 * half + 1]).int().expand(rows, length),
        row_keys=tuple(map(str, range(rows))),
    )


def gradients(student: TransformersModel, layer: int = 0, rows: int = 2, length: int = 48) -> dict[str, torch.Tensor]:
    """Return the gradients, by parameter, of a step on a `packed_batch`, through final states and those of a layer."""
    student.model.train()
    student.model.zero_grad()
    want = kdtool.SignalRequest(kinds=frozenset({"hidden"}), layers=(layer,))
    outputs = student.backbone(packed_batch(rows, length, student.head.weight.device), want)
    (outputs.last.square().mean() + outputs.hidden[layer].square().mean()).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}


def greatest_difference(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Return how far gradients of the same parameters are apart at most, as a share of each parameter's greatest."""
    assert found.keys() == expected.keys()  # noqa: S101
    return max(float((found[name] - expected[name]).abs().max() / expected[name].abs().max()) for name in expected)


def save_tiny(
    folder: Path, family: str = "llama", layers: int = 4, seed: int = 0, **settings: Any
) -> TransformersModel:
    """Write `tiny_model` into a folder and return it."""
    model = tiny_model(family, layers, seed, **settings)
    model.save(folder)
    return model


def save_reduced(folder: Path, published: Mapping[str, Any], seed: int = 0, **settings: Any) -> None:
    """Write a model of a published configuration, made small, with random weights, into a folder with a tokenizer.

    `settings` override its configuration last.
    """
    heads, kv_heads = published["num_attention_heads"], published["num_key_value_heads"]
    small = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": max(1, 4 * kv_heads // heads),
        "max_position_embeddings": 512,
        "dtype": "float32",
    }
    if "sliding_window" in published:
        small["sliding_window"] = 128
    if "head_dim" in published:
        small["head_dim"] = 16
    with isolated_rng(seed):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**{**published, **small, **settings})
        )
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)


def save_starcoder2_tokenizer(folder: Path, vocabulary: int, text_bytes: int) -> None:
    """Write a tokenizer with the parts of StarCoder2's, trained on the standard library, into a folder.

    Bytes, digits one by one, FIM tokens; the class that its publisher names.
    """
    (folder / "tokenizer.json").write_text(_starcoder2_tokenizer(vocabulary, text_bytes), encoding="utf-8")
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


@cache  # training takes seconds, and several files of tests want the same
def _starcoder2_tokenizer(vocabulary: int, text_bytes: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<repo_name>", "<file_sep>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_standard_library(text_bytes), trainer)
    _require_size(tokenizer, vocabulary)
    return tokenizer.to_str()


def begin_texts_with(tokenizer: TransformersTokenizer, *marks: str) -> TransformersTokenizer:
    """Return the tokenizer as one that puts `marks` before every text, as Llama's puts `<s>`; new ones get further ids."""
    inner = Tokenizer.from_str(tokenizer.inner.backend_tokenizer.to_str())
    inner.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    inner.post_processor = processors.TemplateProcessing(
        single=" ".join([*marks, "$A"]), special_tokens=[(mark, inner.token_to_id(mark)) for mark in marks]
    )
    return TransformersTokenizer(
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=inner, bos_token=marks[0], eos_token=tokenizer.inner.eos_token
        )
    )


def save_code_llama_tokenizer(folder: Path, vocabulary: int, text_bytes: int, *, infilling: bool) -> None:
    """Write a tokenizer with the parts of Code Llama's, trained on the standard library, into a folder.

    Pieces with a mark for spaces and bytes for what has no piece, as sentencepiece makes them; with `infilling` the last 16
    are its marks.
    """
    marks = _CODE_LLAMA_FIM_TOKENS if infilling else []
    (folder / "tokenizer.json").write_text(_code_llama_tokenizer(vocabulary, text_bytes, infilling), encoding="utf-8")
    names = ("prefix_token", "suffix_token", "middle_token", "eot_token", "fill_token")
    settings = dict(zip(names, [*marks, "<FILL_ME>"] if infilling else [None] * 5, strict=True))
    settings |= {"tokenizer_class": "CodeLlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


@cache
def _code_llama_tokenizer(vocabulary: int, text_bytes: int, infilling: bool) -> str:
    pieces = vocabulary - 16 if infilling else vocabulary
    trained = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106 - no password
    trained.pre_tokenizer = pre_tokenizers.Sequence(  # what it splits besides at spaces only makes training fast
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation("contiguous")]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=pieces, special_tokens=special, limit_alphabet=200, show_progress=False)
    trained.train_from_iterator(_standard_library(text_bytes), trainer)
    _require_size(trained, pieces)
    model = json.loads(trained.to_str())["model"]
    marks = _CODE_LLAMA_FIM_TOKENS if infilling else []
    parts = [f"▁<PART_{number:02}" for number in range(12)] if infilling else []
    known = {**model["vocab"], **{piece: pieces + number for number, piece in enumerate([*parts, *marks])}}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=known,
            merges=_all_merges(model),
            unk_token="<unk>",  # noqa: S106 - no password
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in ("<unk>", "<s>", "</s>", *marks)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer.to_str()


def _all_merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return every way to join two tokens into a third, the earliest token first, as sentencepiece joins them."""
    joined = dict.fromkeys("".join(pair) for pair in model["merges"])
    return [
        (token[:end], token[end:])
        for token in joined
        for end in range(1, len(token))
        if token[:end] in model["vocab"] and token[end:] in model["vocab"]
    ]


def _standard_library(text_bytes: int) -> Iterator[str]:
    folder = Path(sysconfig.get_path("stdlib"))
    files = [file for file in sorted(folder.rglob("*.py")) if "site-packages" not in file.parts]
    taken = takewhile(lambda total: total < text_bytes, accumulate(file.stat().st_size for file in files))
    for file, _ in zip(files, taken, strict=False):
        yield file.read_text(encoding="utf-8", errors="replace")


def _require_size(tokenizer: Tokenizer, vocabulary: int) -> None:
    size = tokenizer.get_vocab_size()
    if size != vocabulary:
        raise ValueError(f"the text gives {size} pieces, not {vocabulary}: take more of it")
