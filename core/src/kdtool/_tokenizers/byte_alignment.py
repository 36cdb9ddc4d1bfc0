"""Tokens of two tokenizers that stand for the same bytes of a text.

Rows say of each token after how many bytes of its document it begins and ends (the columns `byte_start` and `byte_end`); two
ways of cutting the same bytes meet where these numbers are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["BYTE_END", "BYTE_START", "byte_spans", "whole_characters"]

BYTE_START, BYTE_END = "byte_start", "byte_end"
"""Columns of rows: where in its document, in bytes of UTF-8, a token begins and ends."""


def byte_spans(pieces: Sequence[bytes], begin: int = 0) -> tuple[list[int], list[int]]:
    """Return where each piece begins and ends, where the first one begins at `begin`."""
    starts, ends = [], []
    for piece in pieces:
        starts.append(begin)
        begin += len(piece)
        ends.append(begin)
    return starts, ends


def whole_characters(content: bytes) -> tuple[int, str]:
    """Return the text of bytes that may begin and end within a character, and how many bytes were left out before it.

    Raises:
        UnicodeDecodeError: they are no UTF-8 elsewhere.
    """
    begin = 0
    while begin < min(3, len(content)) and content[begin] & 0xC0 == 0x80:
        begin += 1
    end = len(content)
    for back in range(1, min(4, end - begin) + 1):
        lead = content[end - back]
        if lead & 0xC0 != 0x80:
            needed = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            end -= back if needed > back else 0
            break
    return begin, content[begin:end].decode("utf-8")
