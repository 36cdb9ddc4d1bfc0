"""Check that llama.cpp splits text into the tokens of the student."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from kdtool_transformers import TransformersTokenizer

from kdtool_exporter_gguf._vocabulary import composes

__all__ = ["find_split_difference"]

_SAMPLES = (
    'def load(path, mode="rb"):\n    """Größe von 日本語."""\n\treturn [x ** 2 for x in range(1234567)]\n\n\n',
    "  \t if a!=b:  # it's we'll\r\n    print(3.14159, 0xFF)   \n",
)
"""Text that tokenizers split differently: indentation, digits, other scripts, line ends."""
_RARE = (
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
_DECOMPOSED = "e\u0301 q\u0323\u0307 각"
"""Text that is not in composed form (NFC)."""


def find_split_difference(tokenizer: TransformersTokenizer, tokenize: Callable[[str], Sequence[int]]) -> str | None:
    """Return a sample that llama.cpp splits differently from the tokenizer; None if there is none.

    `tokenize` returns llama.cpp's tokens of a text, including special tokens written in it.
    """
    definition = json.loads(tokenizer.inner.backend_tokenizer.to_str())
    begins_anew = (definition["pre_tokenizer"] or {}).get("type") == "Metaspace"
    for parts in _texts(tokenizer, composed=composes(definition)):
        text = "".join(parts)
        # Behind a special token, llama.cpp puts a space as at the beginning of a text; `Metaspace` does not.
        runs = parts if begins_anew else [text]
        if list(tokenize(text)) != [token for run in runs for token in tokenizer.encode(run)]:
            return text
    return None


def _texts(tokenizer: TransformersTokenizer, *, composed: bool) -> Iterator[list[str]]:
    """Yield samples of text, and each added token within text and within words, in parts: added tokens and runs of text."""
    for text in (*_SAMPLES, *_RARE, *([] if composed else [_DECOMPOSED])):
        yield [text]
    for token in tokenizer.inner.added_tokens_decoder.values():
        yield ["x", token.content, "y ", token.content, " z\n"]
