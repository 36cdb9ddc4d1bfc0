"""A transformers tokenizer as kdtool's `Tokenizer`: ids, text, a fingerprint, and files for others to open.

Opened by `open_tokenizer` without weights. Uses the Rust tokenizer below transformers directly, which is fast and adds
nothing by itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import kdtool
from tokenizers.pre_tokenizers import Metaspace

__all__ = ["TransformersTokenizer"]

_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|end▁of▁sentence|>")
"""What ends a document in pre-training; chat models name the end of a turn as their end-of-sequence token instead."""

_MAP = ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder")
"""The parts of tokenizer.json that decide text to ids and back; a post-processor only adds special tokens around."""


class TransformersTokenizer(kdtool.Tokenizer):
    """Text to ids and back. `inner` is the `PreTrainedTokenizerFast` behind it, chat template included.

    `answer_ends` names tokens that end an answer, besides those of `end_ids` that the tokenizer knows itself.
    """

    answer_ends: Sequence[str] = ()

    def __init__(self, inner: Any) -> None:
        backend = getattr(inner, "backend_tokenizer", None)
        if backend is None:
            raise kdtool.UsageError(
                f"the tokenizer of {inner.name_or_path} has no tokenizer.json and none could be made from its files; "
                "open it once with transformers, save it in the fast format, and point to that folder"
            )
        backend.no_truncation()
        backend.no_padding()
        self.inner = inner
        self._backend = backend

    @cached_property
    def vocabulary(self) -> int:
        """The true vocabulary size: one more than the greatest id."""
        return 1 + int(max(self._backend.get_vocab(with_added_tokens=True).values()))

    @cached_property
    def end_of_text(self) -> int:
        """The id that ends a document: the pre-training separator if there is one, else the end-of-sequence token."""
        for token in _DOCUMENT_ENDS:
            found = self._backend.token_to_id(token)
            if found is not None:
                return int(found)
        if self.inner.eos_token_id is None:
            raise kdtool.UsageError(f"the tokenizer of {self.inner.name_or_path} names no end-of-sequence token")
        return int(self.inner.eos_token_id)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids at which generation ends: a document's, a turn's and an answer's end."""
        named = (self._backend.token_to_id(token) for token in self.answer_ends)
        known = {self.end_of_text, self.inner.eos_token_id, *named} - {None}
        return tuple(sorted(known))

    @cached_property
    def start_ids(self) -> list[int]:
        """The ids that the model expects before a prompt: the beginning-of-text token where its tokenizer puts one."""
        first = self._backend.encode("", add_special_tokens=True).ids[:1]
        return list(first) if first == [self.inner.bos_token_id] else []

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what decides the map from text to ids, and the end-of-text id."""
        content = json.loads(self._backend.to_str())
        canonical = {name: content.get(name) for name in _MAP} | {"end_of_text": self.end_of_text}
        return sha256(json.dumps(canonical, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def has_token(self, token: str) -> bool:
        """Say whether `token` is one of the vocabulary as a whole."""
        return self._backend.token_to_id(token) is not None

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`; special tokens written in it count, none are added."""
        return list(self._backend.encode(self._spaced(text), add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of several texts, on all cores."""
        encoded = self._backend.encode_batch_fast([self._spaced(text) for text in texts], add_special_tokens=False)
        return [list(one.ids) for one in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and its companions."""
        self.inner.save_pretrained(folder)

    def _spaced(self, text: str) -> str:
        # sentencepiece puts a space before every text, and decoding takes it away; the `Metaspace` that transformers builds
        # for such tokenizers leaves it out where the text has a space there already, which would be lost.
        pre = self._backend.pre_tokenizer
        lacking = isinstance(pre, Metaspace) and pre.prepend_scheme == "first"
        return f" {text}" if lacking and text.startswith(" ") else text
