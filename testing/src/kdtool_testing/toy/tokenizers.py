"""Tokenizers of bytes: plain, with a space before every text, with a token before every document. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdtool import Tokenizer

from kdtool_testing.toy.tokenizer_files import write_tokenizer

__all__ = ["ByteTokenizer", "SpacedTokenizer", "StartedTokenizer"]


class ByteTokenizer(Tokenizer):
    """One token for each byte of UTF-8, and 256 for the end of a text."""

    vocabulary = 257
    end_of_text = 256
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text`."""
        return list(text.encode("utf-8"))

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the byte of each id, none for the end of a text."""
        return [bytes([i]) if i < 256 else b"" for i in ids]

    def save(self, folder: Path) -> None:
        """Write the files that `transformers.AutoTokenizer` opens."""
        write_tokenizer(folder)


class SpacedTokenizer(ByteTokenizer):
    """Puts a space before every text, which decoding takes away, as tokenizers like sentencepiece's do."""

    fingerprint = "bytes after a space"

    def encode(self, text: str) -> list[int]:
        """Return a space and the bytes of `text`."""
        return super().encode(f" {text}" if text else "")

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the bytes of `text`, with a space before them only if `before` is empty."""
        return super().encode(text) if before else self.encode(text)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the byte of each id, none for the space before the text."""
        pieces = super().pieces(ids)
        first = next((number for number, piece in enumerate(pieces) if piece), None)
        if first is not None and pieces[first] == b" ":
            pieces[first] = b""
        return pieces


class StartedTokenizer(ByteTokenizer):
    """Begins every document with the token 257, as tokenizers like Llama's do."""

    vocabulary = 258
    document_start = (257,)
    fingerprint = "bytes after a start"
