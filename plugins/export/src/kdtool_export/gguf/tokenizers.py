"""Tokenizers in GGUF files: vocabulary, special tokens, llama.cpp's name for the word splitting, and a check of the tokens.

Byte-level BPE is llama.cpp's kind `gpt2`; tokenizers in the manner of sentencepiece (Llama 2, Code Llama, Mistral) are
its kind `llama`. For the latter, tokenizer.json lists merges, whereas sentencepiece and llama.cpp score tokens: both
join the best neighbours first. They are the same tokenizer if every way to join two tokens into a third is a merge, and
all ways to one token are next to each other. Runs of spaces, which Llama 2 scores alike, come out the same in any
order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import gguf
import kdtool
from kdtool_transformers import TransformersTokenizer

CONVERT = "export safetensors, and convert those by llama.cpp's convert_hf_to_gguf.py"
"""Remedy for models that this module cannot write."""
_NOT_APPLIED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
"""Settings of BPE in tokenizer.json that llama.cpp ignores."""
_NEVER = "ÿ"
"""A byte that never occurs in UTF-8."""
_COMPOSE = {"type": "NFC"}
_FIM_KEYS = (gguf.Keys.Tokenizer.FIM_PRE_ID, gguf.Keys.Tokenizer.FIM_SUF_ID, gguf.Keys.Tokenizer.FIM_MID_ID)


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
        writer.add_add_eos_token(False)  # a prompt does not end
        if inner.unk_token_id is not None:
            writer.add_unk_token_id(inner.unk_token_id)
        if inner.pad_token_id is not None:
            writer.add_pad_token_id(inner.pad_token_id)
        marks = self.tokenizer.infilling
        if marks is not None and not marks.suffix_first:  # llama.cpp's own server writes the prefix first
            ids = [inner.convert_tokens_to_ids(mark) for mark in marks.tokens]
            for key, mark in zip(_FIM_KEYS, ids, strict=False):
                writer.add_uint32(key, mark)
        turn_end = self.tokenizer.turn_end
        if marks is not None and marks.end:
            writer.add_eot_token_id(inner.convert_tokens_to_ids(marks.end))
        elif turn_end not in (None, end):
            writer.add_eot_token_id(turn_end)


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


_SPACE_MARK = "▁"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE_MARK}
_PREPEND = {"type": "Prepend", "prepend": _SPACE_MARK}


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
    metaspace = (
        splitting.get("type") == "Metaspace" and splitting["replacement"] == _SPACE_MARK and not splitting["split"]
    )
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
    order = [ranks[token] for token in merged if token.strip(_SPACE_MARK)]
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


_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's expression, which the step `ByteLevel` applies with `use_regex`."""
_DIGIT = r"\p{N}"
_TIKTOKEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITTING_NAMES: dict[tuple[tuple[str | None, ...], bool], str] = {
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
    name = _SPLITTING_NAMES.get((steps, bool(model.get("ignore_merges"))))
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


_SPLIT_SAMPLES = (
    'def load(path, mode="rb"):\n    """Größe von 日本語."""\n\treturn [x ** 2 for x in range(1234567)]\n\n\n',
    "  \t if a!=b:  # it's we'll\r\n    print(3.14159, 0xFF)   \n",
)
"""Text that tokenizers split differently: indentation, digits, other scripts, line ends."""
_RARE_SAMPLES = (
    "",
    " ",
    "   x\t\t y \n \n\r\n\r\n  z  ",
    "I'M they'RE don't \u2019s 'S'T",
    "1 12 123 1234 12345678901234567890 ٣٤٥ 1,234.5e-6",
    "日本語の変数名、한국어 текст ελληνικά हिन्दी ไทย العربية\u200f",
    "😀👩‍👩‍👧🏳️‍🌈🇩🇪",
    "x²=½ ①\u00a0\u3000ＡＢ ﬁle É \u2028\ufeff\x7f\x01",
    "foo_Bar::baz->qux(&a[i]) /*--*/ #!/usr/bin/env {{}}$$ <p> <0x0A> ▁<PRE>",
    "\n".join(" " * number + "x" for number in range(40)),
)
"""Text that is rarer, or that tokenizers normalise before splitting, and numbers that are not digits."""
_DECOMPOSED_SAMPLE = "e\u0301 q\u0323\u0307 각"
"""Text that is not in composed form (NFC)."""


def find_split_difference(tokenizer: TransformersTokenizer, tokenize: Callable[[str], Sequence[int]]) -> str | None:
    """Return a sample that llama.cpp splits differently from the tokenizer; None if there is none.

    `tokenize` returns llama.cpp's tokens of a text, including special tokens written in it.
    """
    definition = json.loads(tokenizer.inner.backend_tokenizer.to_str())
    begins_anew = (definition["pre_tokenizer"] or {}).get("type") == "Metaspace"
    for parts in _split_samples(tokenizer, composed=composes(definition)):
        text = "".join(parts)
        # Behind a special token, llama.cpp puts a space as at the beginning of a text; `Metaspace` does not.
        runs = parts if begins_anew else [text]
        if list(tokenize(text)) != [token for run in runs for token in tokenizer.encode_template(run)]:
            return text
    return None


def _split_samples(tokenizer: TransformersTokenizer, *, composed: bool) -> Iterator[list[str]]:
    """Yield samples of text, and each added token within text and within words, in parts: added tokens and runs of text."""
    for text in (*_SPLIT_SAMPLES, *_RARE_SAMPLES, *([] if composed else [_DECOMPOSED_SAMPLE])):
        yield [text]
    for token in tokenizer.inner.added_tokens_decoder.values():
        yield ["x", token.content, "y ", token.content, " z\n"]
