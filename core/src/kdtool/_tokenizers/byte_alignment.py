"""Tokens of two tokenizers that stand for the same bytes of a text.

The columns `byte_start` and `byte_end` of rows hold where each token begins and ends in its document. Two ways of cutting
the same bytes meet where these numbers are equal.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from itertools import accumulate

BYTE_START, BYTE_END = "byte_start", "byte_end"
"""Columns of rows: where in its document, in bytes of UTF-8, a token begins and ends."""


def byte_spans(pieces: Sequence[bytes], begin: int = 0) -> tuple[list[int], list[int]]:
    """Return the starts and ends of consecutive pieces, the first of which starts at `begin`."""
    bounds = list(accumulate(map(len, pieces), initial=begin))
    return bounds[:-1], bounds[1:]


def whole_characters(content: bytes) -> tuple[int, str]:
    """Return the text of bytes that may begin and end within a character, and the number of bytes left out before it.

    Raises:
        UnicodeDecodeError: they are not UTF-8 elsewhere.
    """
    begin = 0
    while begin < min(3, len(content)) and content[begin] & 0xC0 == 0x80:
        begin += 1
    decoder = getincrementaldecoder("utf-8")()  # keeps a character that is not complete at the end
    return begin, decoder.decode(content[begin:])
