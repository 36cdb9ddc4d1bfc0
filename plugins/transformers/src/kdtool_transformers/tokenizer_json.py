"""Facts that only a tokenizer's tokenizer.json shows: the bytes of each id, and a space before every text.

Byte-level tokenizers write bytes as letters. Those in the manner of sentencepiece write text with a mark for spaces, bytes
as `<0x0A>`, and put a space before the first word that decoding takes away: they write "x" as "▁x", so that a word has one
token at the beginning and within a text. The bytes of other tokenizers are refused. Called by `TransformersTokenizer`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import kdtool

_MARK = "▁"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Pieces:
    """Ids to bytes; made from the content of tokenizer.json and every id's token."""

    def __init__(self, content: Mapping[str, Any], tokens: Sequence[str]) -> None:
        decoders = {decoder["type"] for decoder in _decoders(content.get("decoder"))}
        special = {token["id"] for token in content.get("added_tokens", ()) if token["special"]}
        if "ByteLevel" in decoders:
            bytes_of = _letters_to_bytes
        elif decoders & {"ByteFallback", "Metaspace"}:
            bytes_of = _marks_to_bytes
        else:
            raise kdtool.UsageError(
                "the bytes of this tokenizer's tokens are unknown: its decoder is "
                f"{', '.join(sorted(decoders)) or 'none'}, but only byte-level ones and those in the manner of "
                "sentencepiece are supported"
            )
        self._bytes = [b"" if index in special else bytes_of(token) for index, token in enumerate(tokens)]
        self._drops_space = "ByteLevel" not in decoders

    def of(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of each id in a text that begins with the first."""
        pieces = [self._bytes[index] for index in ids]
        first = next((number for number, piece in enumerate(pieces) if piece), None)
        if self._drops_space and first is not None:
            pieces[first] = pieces[first].removeprefix(b" ")
        return pieces


def _decoders(decoder: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    if decoder is None:
        return []
    parts: Sequence[Mapping[str, Any]] = decoder.get("decoders", [decoder])
    return parts


def _marks_to_bytes(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte.group(1), 16)]) if byte else token.replace(_MARK, " ").encode()


def _letters_to_bytes(token: str) -> bytes:
    try:
        return bytes(_LETTERS[letter] for letter in token)
    except KeyError:  # a token that was added, which is written as it is
        return token.encode()


def _letters() -> dict[str, int]:
    """Return the byte that each letter stands for in byte-level tokenizers (GPT-2's table)."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return {chr(byte) if byte in plain else chr(next(others)): byte for byte in range(256)}


_LETTERS = _letters()
_PARTS = {"normalizers", "pretokenizers"}
_NEVER = {"prepend_scheme": "never", "add_prefix_space": False}
"""The settings of `Metaspace` and `ByteLevel` that put no space there."""


def without_space_before(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer or pre-tokenizer that does the same but puts nothing before a text; None if nothing remains."""
    if part is None or part["type"] == "Prepend":
        return None
    changed = {
        name: [kept for each in part[name] if (kept := without_space_before(each))] for name in _PARTS & part.keys()
    }
    return {**part, **changed, **{name: value for name, value in _NEVER.items() if name in part}}
