"""Tokenizers in the manner of sentencepiece (Llama 2, Code Llama, Mistral), as llama.cpp's kind `llama`.

tokenizer.json lists merges, whereas sentencepiece and llama.cpp score tokens: both join the best neighbours first. They are
the same tokenizer if every way to join two tokens into a third is a merge, and all ways to one token are next to each other.
Runs of spaces, which Llama 2 scores alike, come out the same in any order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import gguf
import kdtool

__all__ = ["has_space_before", "is_sentencepiece", "kind_of_token", "scores_of_tokens"]

_MARK = "▁"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}
_PREPEND = {"type": "Prepend", "prepend": _MARK}


def is_sentencepiece(model: Mapping[str, Any]) -> bool:
    """Return whether a model of tokenizer.json writes characters that it lacks as bytes."""
    return bool(model.get("byte_fallback"))


def has_space_before(definition: Mapping[str, Any]) -> bool:
    """Return whether the tokenizer puts a space before a text.

    Raises:
        UsageError: it changes or splits text in a way that sentencepiece does not.
    """
    normalizer, splitting = definition["normalizer"] or {}, definition["pre_tokenizer"] or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    metaspace = splitting.get("type") == "Metaspace" and splitting["replacement"] == _MARK and not splitting["split"]
    if steps in ([_REPLACE], [_PREPEND, _REPLACE]) and not splitting:
        return _PREPEND in steps
    if not steps and metaspace:
        return bool(splitting["prepend_scheme"] != "never")
    raise kdtool.UsageError(
        "the tokenizer falls back to bytes, but changes or splits text in another way than sentencepiece does, which "
        "llama.cpp cannot; use a tokenizer like Llama 2's, or export safetensors"
    )


def scores_of_tokens(definition: Mapping[str, Any], tokens: Sequence[str]) -> list[float]:
    """Return a score for each token: the higher, the earlier it is merged.

    Raises:
        UsageError: sentencepiece would merge in another order, or bytes are missing from the vocabulary.
    """
    merged = [left + right for left, right in definition["model"]["merges"]]
    ranks: dict[str, int] = {}
    for token in merged:
        ranks.setdefault(token, len(ranks))
    order = [ranks[token] for token in merged if token.strip(_MARK)]
    known, added = set(tokens), {token["content"] for token in definition["added_tokens"]}
    ways = sum(token[:end] in known and token[end:] in known for token in known - added for end in range(1, len(token)))
    is_alike = order == sorted(order) and ways == sum(token not in added for token in merged)
    if not is_alike or sum(map(bool, map(_BYTE.fullmatch, tokens))) != 256:
        raise kdtool.UsageError(
            "the tokenizer falls back to bytes, but lacks some or merges in another order than sentencepiece, which "
            "llama.cpp cannot; use a tokenizer like Llama 2's, or export safetensors"
        )
    return [-float(ranks.get(token, len(ranks))) for token in tokens]


def kind_of_token(token: str) -> gguf.TokenType:
    """Return llama.cpp's kind of a token that is not an added one."""
    return gguf.TokenType.BYTE if _BYTE.fullmatch(token) else gguf.TokenType.NORMAL
