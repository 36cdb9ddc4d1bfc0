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
    chat_fingerprint = ""

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text`."""
        return list(text.encode("utf-8"))

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]] | None:
        """Return None: there is no template."""

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        """Return None: there are no marks."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; broken characters become U+FFFD."""
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the byte of each id, none for the end of a text."""
        return [bytes([i]) if i < 256 else b"" for i in ids]

    def tokens(self) -> list[str]:
        """Return a name for each byte, and for the end of a text."""
        return [*(f"<{byte:02x}>" for byte in range(256)), "<end>"]

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

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without the space before it."""
        return super().decode(ids).removeprefix(" ")

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

    def tokens(self) -> list[str]:
        """Return a name for each byte, for the end of a text and for its start."""
        return [*super().tokens(), "<start>"]
