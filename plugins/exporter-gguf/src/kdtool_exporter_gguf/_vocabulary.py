"""A tokenizer as the metadata of a GGUF file: tokens, what each is to llama.cpp, merges or scores, marks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import gguf
import kdtool
from kdtool_transformers import TransformersTokenizer

from kdtool_exporter_gguf._sentencepiece import has_space_before, is_sentencepiece, kind_of_token, scores_of_tokens

__all__ = ["CONVERT", "GGUFVocabulary", "composes"]

CONVERT = "export safetensors, and convert those by llama.cpp's convert_hf_to_gguf.py"
"""Remedy for models that this module cannot write."""
_NOT_APPLIED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
"""Settings of BPE in tokenizer.json that llama.cpp ignores."""
_NEVER = "ÿ"
"""A byte that never occurs in UTF-8."""
_COMPOSE = {"type": "NFC"}
_FIM = (gguf.Keys.Tokenizer.FIM_PRE_ID, gguf.Keys.Tokenizer.FIM_SUF_ID, gguf.Keys.Tokenizer.FIM_MID_ID)


class GGUFVocabulary(NamedTuple):
    """The vocabulary of `tokenizer` in a file: tokens in the order of their ids, each with a kind.

    Byte-level BPE has `merges`, sentencepiece `scores` and `space_before`: it puts a space before a text.
    """

    tokenizer: TransformersTokenizer
    tokens: list[str]
    kinds: list[gguf.TokenType]
    merges: list[str]
    scores: list[float]
    space_before: bool

    @classmethod
    def of(cls, tokenizer: TransformersTokenizer, size: int) -> Self:
        """Return the vocabulary of a model with `size` rows, those without a token as unused ones.

        A byte-level tokenizer that merges nothing gets one merge that is never used, with its token: the format wants one.

        Raises:
            UsageError: the tokenizer is neither a byte-level BPE nor sentencepiece's, changes text in a way that llama.cpp
                ignores, or has more tokens than there are rows.
        """
        definition = json.loads(tokenizer.inner.backend_tokenizer.to_str())
        model = definition["model"]
        _require_plain(definition)
        tokens, kinds = tokenizer.tokens(), _kinds_of_added_tokens(tokenizer)
        pieces = is_sentencepiece(model)
        merges = [] if pieces else [" ".join(pair) for pair in model["merges"]] or [f"{_NEVER} {_NEVER}"]
        if not (pieces or model["merges"]):
            kinds[len(tokens)] = gguf.TokenType.UNUSED
            tokens.append(2 * _NEVER)
        if len(tokens) > size:
            raise kdtool.UsageError(
                f"written as GGUF the tokenizer has {len(tokens)} tokens (one more than here if it merges nothing), and the "
                f"model's vocabulary is full at {size}: give the model more rows (resize_token_embeddings of transformers), "
                "or export safetensors"
            )
        if pieces:
            kinds = {number: kind_of_token(token) for number, token in enumerate(tokens)} | kinds
        tokens += [""] * (size - len(tokens))
        kinds |= {number: gguf.TokenType.UNUSED for number, token in enumerate(tokens) if not token}
        tokens = [token or f"[PAD{number}]" for number, token in enumerate(tokens)]
        return cls(
            tokenizer,
            tokens,
            [kinds.get(number, gguf.TokenType.NORMAL) for number in range(size)],
            merges,
            scores_of_tokens(definition, tokens) if pieces else [],
            pieces and has_space_before(definition),
        )

    def add_to(self, writer: gguf.GGUFWriter, pre: str) -> None:
        """Write it. `pre` is llama.cpp's name for how text is split into words.

        Raises:
            UsageError: the tokenizer puts several tokens before a text.
        """
        inner = self.tokenizer.inner
        writer.add_tokenizer_model("llama" if self.scores else "gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        if self.scores:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.space_before)
        else:
            writer.add_token_merges(self.merges)
        self._add_special(writer)
        template = inner.chat_template
        if isinstance(template, dict):
            template = [{"name": name, "template": text} for name, text in template.items()]
        if template:
            writer.add_chat_template(template)

    def _add_special(self, writer: gguf.GGUFWriter) -> None:
        inner = self.tokenizer.inner
        end = self.tokenizer.end_of_text if inner.eos_token_id is None else inner.eos_token_id
        start = self.tokenizer.document_start
        if len(start) > 1:
            raise kdtool.UsageError(
                f"the tokenizer puts {len(start)} tokens before a text, and llama.cpp puts one at most: {CONVERT}"
            )
        writer.add_eos_token_id(end)
        writer.add_bos_token_id(start[0] if start else end if inner.bos_token_id is None else inner.bos_token_id)
        writer.add_add_bos_token(bool(start))
        writer.add_add_eos_token(False)  # a prompt goes on
        if inner.unk_token_id is not None:
            writer.add_unk_token_id(inner.unk_token_id)
        if inner.pad_token_id is not None:
            writer.add_pad_token_id(inner.pad_token_id)
        marks = self.tokenizer.infilling
        if marks is not None and not marks.suffix_first:  # llama.cpp's own server writes the prefix first
            ids = [inner.convert_tokens_to_ids(mark) for mark in marks.tokens]
            for key, mark in zip(_FIM, ids, strict=False):
                writer.add_uint32(key, mark)
            if marks.end:
                writer.add_eot_token_id(ids[-1])


def composes(definition: Mapping[str, Any]) -> bool:
    """Return whether a byte-level tokenizer composes characters (NFC) before it splits text, which llama.cpp does not."""
    normalizer = definition["normalizer"] or {}
    return bool(normalizer.get("normalizers", [normalizer]) == [_COMPOSE])


def _require_plain(definition: Mapping[str, Any]) -> None:
    """Refuse other tokenizers than BPE, and settings that llama.cpp ignores.

    Raises:
        UsageError: it is another kind, or has such a setting.
    """
    model, normalizer = definition["model"], definition["normalizer"]
    if model["type"] != "BPE":
        raise kdtool.UsageError(
            f"only BPE tokenizers, byte-level or like sentencepiece's, can be written as GGUF here: {CONVERT}"
        )
    odd = [name for name in _NOT_APPLIED if model.get(name)]
    wide = [token for token in definition["added_tokens"] if token["lstrip"] or token["rstrip"] or token["single_word"]]
    odd += [f"the added token {token['content']!r} that takes white space or whole words" for token in wide[:1]]
    plain = not normalizer or normalizer.get("normalizers") == [] or composes(definition)
    if not plain and not is_sentencepiece(model):
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
