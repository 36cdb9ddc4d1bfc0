"""A byte-level BPE tokenizer as the metadata of a GGUF file: tokens, what each is to llama.cpp, merges, marks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import gguf
import kdtool

from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["CONVERT", "GGUFVocabulary", "check_bpe_settings"]

CONVERT = "export safetensors, and convert those by llama.cpp's convert_hf_to_gguf.py"
"""Remedy for models that this module cannot write."""
_NOT_APPLIED = ("ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix")
"""Settings of BPE in tokenizer.json that llama.cpp leaves out where it splits text as GPT-2 does."""
_NEVER = "ÿ"
"""A byte that no UTF-8 holds."""


class GGUFVocabulary(NamedTuple):
    """The vocabulary of `tokenizer` in a file: tokens in the order of their ids, each with a kind."""

    tokenizer: TransformersTokenizer
    tokens: list[str]
    kinds: list[gguf.TokenType]
    merges: list[str]

    @classmethod
    def of(cls, tokenizer: TransformersTokenizer, size: int) -> Self:
        """Return the vocabulary of a model with `size` rows, those without a token as unused ones.

        A tokenizer that merges nothing gets one merge that is never used, with its token: the format wants one.

        Raises:
            UsageError: the tokenizer is not a byte-level BPE, changes text in a way that llama.cpp ignores, or has more
                tokens than there are rows.
        """
        told = json.loads(tokenizer.inner.backend_tokenizer.to_str())
        check_bpe_settings(told)
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in told["model"]["merges"]]
        tokens, kinds = tokenizer.tokens(), _kinds_of_added_tokens(tokenizer)
        if not merges:
            merges = [f"{_NEVER} {_NEVER}"]
            kinds[len(tokens)] = gguf.TokenType.UNUSED
            tokens.append(2 * _NEVER)
        if len(tokens) > size:
            raise kdtool.UsageError(
                f"written as GGUF the tokenizer has {len(tokens)} tokens (one more than here if it merges nothing), and the "
                f"model's vocabulary is full at {size}: give the model more rows (resize_token_embeddings of transformers), "
                "or export safetensors"
            )
        tokens += [""] * (size - len(tokens))
        kinds |= {number: gguf.TokenType.UNUSED for number, token in enumerate(tokens) if not token}
        return cls(
            tokenizer,
            [token or f"<|unused{number}|>" for number, token in enumerate(tokens)],
            [kinds.get(number, gguf.TokenType.NORMAL) for number in range(size)],
            merges,
        )

    def add_to(self, writer: gguf.GGUFWriter, pre: str) -> None:
        """Write it. `pre` is llama.cpp's name for how text is split into words."""
        inner = self.tokenizer.inner
        end = self.tokenizer.end_of_text if inner.eos_token_id is None else inner.eos_token_id
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        writer.add_token_merges(self.merges)
        writer.add_eos_token_id(end)
        start = self.tokenizer.document_start
        if len(start) > 1:
            raise kdtool.UsageError(
                f"the tokenizer puts {len(start)} tokens before a text, and llama.cpp puts one at most: {CONVERT}"
            )
        writer.add_bos_token_id(start[0] if start else end if inner.bos_token_id is None else inner.bos_token_id)
        writer.add_add_bos_token(bool(start))
        template = inner.chat_template
        if isinstance(template, dict):
            template = [{"name": name, "template": text} for name, text in template.items()]
        if template:
            writer.add_chat_template(template)


def check_bpe_settings(told: Mapping[str, Any]) -> None:
    """Refuse settings that llama.cpp ignores, given the content of tokenizer.json.

    Raises:
        UsageError: there is some of it.
    """
    model, normalizer = told["model"], told["normalizer"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise kdtool.UsageError(f"only byte-level BPE tokenizers can be written as GGUF here: {CONVERT}")
    odd = [name for name in _NOT_APPLIED if model.get(name)]
    if normalizer and normalizer.get("normalizers") != []:
        odd.append(f"the normalizer {normalizer['type']}")
    if odd:
        raise kdtool.UsageError(
            f"a tokenizer with {' and '.join(odd)} cannot be written as GGUF, since llama.cpp would split text without: "
            "take a tokenizer that has none, or export safetensors"
        )


def _kinds_of_added_tokens(tokenizer: TransformersTokenizer) -> dict[int, gguf.TokenType]:
    """Return llama.cpp's kinds of the added tokens by id: it finds control tokens never in text, others in any text."""
    added = tokenizer.inner.added_tokens_decoder
    control = {number for number, token in added.items() if token.special}
    control |= {*tokenizer.inner.all_special_ids, tokenizer.end_of_text}
    user_defined = dict.fromkeys(added, gguf.TokenType.USER_DEFINED)
    return user_defined | dict.fromkeys(control, gguf.TokenType.CONTROL)
