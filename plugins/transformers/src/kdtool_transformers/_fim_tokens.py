"""FIM tokens for a vocabulary without any: three of its tokens are renamed, so that no weight changes its shape."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import kdtool

from kdtool_transformers._infilling import SUFFIX_FIRST

if TYPE_CHECKING:
    from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["FimTokens", "with_fim_tokens"]

FimTokens = Annotated[tuple[str, ...], kdtool.Field(min_length=3, max_length=3)]
"""The setting `fim_tokens`: the tokens to rename to FIM tokens for prefix, suffix and middle."""


def with_fim_tokens(tokenizer: TransformersTokenizer, unused: Sequence[str]) -> TransformersTokenizer:
    """Return the tokenizer with the special tokens `unused` renamed to `<spm_prefix>`, `<spm_suffix>` and `<spm_middle>`.

    Prompts with these put the suffix first.

    Raises:
        UsageError: it has FIM tokens already, or one of `unused` is not a special token of it or is named twice.
    """
    from kdtool_transformers._open import open_tokenizer

    name = tokenizer.inner.name_or_path
    if tokenizer.infilling is not None:
        raise kdtool.UsageError(
            f"fim_tokens: the tokenizer of {name} has {', '.join(tokenizer.infilling.tokens)} already; remove fim_tokens"
        )
    content = json.loads(tokenizer.inner.backend_tokenizer.to_str())
    special = {token["content"]: token for token in content["added_tokens"] if token["special"]}
    kept = {token for token in tokenizer.inner.special_tokens_map.values() if isinstance(token, str)}
    if len(set(unused)) < len(unused) or not special.keys() - kept >= set(unused):
        free = ", ".join(sorted(special.keys() - kept)) or "none"
        raise kdtool.UsageError(
            f"fim_tokens: {', '.join(unused)} must be three special tokens of {name} without another purpose; it has {free}"
        )
    renamed = dict(zip(unused, SUFFIX_FIRST.tokens, strict=True))
    for old, new in renamed.items():
        special[old]["content"] = new
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        content["model"]["vocab"] = {renamed.get(token, token): index for token, index in vocabulary.items()}
    with TemporaryDirectory() as scratch:
        tokenizer.save(Path(scratch))
        for file in Path(scratch).glob("*.json"):  # they may list special tokens by name, which would be added again
            text = file.read_text(encoding="utf-8")
            for old, new in renamed.items():
                text = text.replace(json.dumps(old), json.dumps(new))
            file.write_text(text, encoding="utf-8")
        (Path(scratch) / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        opened = open_tokenizer(scratch)
    opened.inner.name_or_path = name
    return opened
