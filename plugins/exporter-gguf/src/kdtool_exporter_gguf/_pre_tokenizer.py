"""llama.cpp's names for the ways byte-level tokenizers split text into words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import kdtool
from kdtool_transformers import TransformersTokenizer

from kdtool_exporter_gguf._sentencepiece import is_sentencepiece

__all__ = ["name_of_splitting"]

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's expression, which the step `ByteLevel` applies with `use_regex`."""
_DIGIT = r"\p{N}"
_TIKTOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NAMES: dict[tuple[tuple[str | None, ...], bool], str] = {
    ((_WORDS,), False): "gpt-2",
    ((_DIGIT, _WORDS), False): "smollm",  # StarCoder's too: its own name makes llama.cpp remove spaces from answers
    ((_TIKTOKEN % r"\p{N}{1,3}",), True): "llama-bpe",
    ((_TIKTOKEN % r"\p{N}{1,3}",), False): "smaug-bpe",
    ((_TIKTOKEN % r"\p{N}",), False): "qwen2",
    (("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT), False): "deepseek-coder",
}
"""By the expressions that split one after the other, and by `ignore_merges`: words of the vocabulary are taken whole."""


def name_of_splitting(tokenizer: TransformersTokenizer) -> str:
    """Return llama.cpp's name for the tokenizer's way of splitting text into words.

    Raises:
        UsageError: the tokenizer splits in another way.
    """
    definition = json.loads(tokenizer.inner.backend_tokenizer.to_str())
    model = definition["model"]
    if is_sentencepiece(model):
        return "default"
    steps = tuple(_expressions(definition["pre_tokenizer"] or {}))
    if not model["merges"] and None not in steps:
        return "gpt-2"  # tokens are bytes, whatever the words
    name = _NAMES.get((steps, bool(model.get("ignore_merges"))))
    if name is None:
        raise kdtool.UsageError(
            "gguf: the student's tokenizer splits text in a way that the exporter does not know; expected a tokenizer like "
            "that of GPT-2, SmolLM2, StarCoder2, Llama 2 or 3, Qwen2 or DeepSeek-Coder; export safetensors, and convert "
            "them with llama.cpp's convert_hf_to_gguf.py"
        )
    return name


def _expressions(step: Mapping[str, Any]) -> Iterator[str | None]:
    """Yield the regular expressions of a pre-tokenizer; None for a step that is not one."""
    kind = step.get("type")
    if kind == "Sequence":
        for part in step["pretokenizers"]:
            yield from _expressions(part)
    elif kind == "ByteLevel" and not step.get("add_prefix_space"):
        if step.get("use_regex", True):
            yield _WORDS
    elif kind == "Digits" and step.get("individual_digits"):
        yield _DIGIT
    elif kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        yield step["pattern"].get("Regex")
    else:
        yield None
