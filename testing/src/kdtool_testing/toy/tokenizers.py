"""Tokenizers of bytes: plain, with a space before every text, with a token before every document. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdtool._contract.tokenizer import Tokenizer

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
        """Write the files from which `transformers.AutoTokenizer` opens it."""
        write_tokenizer(folder)


class SpacedTokenizer(ByteTokenizer):
    """Puts a space before every text, which decoding takes away, as tokenizers in the manner of sentencepiece do."""

    fingerprint = "bytes behind a space"

    def encode(self, text: str) -> list[int]:
        """Return a space and the bytes of `text`."""
        return super().encode(f" {text}" if text else "")

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the bytes of `text`, behind a space only where nothing stands before."""
        return super().encode(text) if before else self.encode(text)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the byte of each id, none for the space before the text."""
        found = super().pieces(ids)
        first = next((number for number, piece in enumerate(found) if piece), None)
        if first is not None and found[first] == b" ":
            found[first] = b""
        return found


class StartedTokenizer(ByteTokenizer):
    """Begins every document with a token of its own, 257, as tokenizers in the manner of Llama's do."""

    vocabulary = 258
    document_start = (257,)
    fingerprint = "bytes behind a start"
