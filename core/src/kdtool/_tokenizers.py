"""Two tokenizers side by side: the tokens that they have in common, and tokens that stand for the same bytes of a text.

A model's true vocabulary is its tokenizer's: rows that pad its embedding do not count. The columns `byte_start` and
`byte_end` of rows hold where each token begins and ends in its document. Two ways of cutting the same bytes meet where these
numbers are equal.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Literal

from kdtool._contract.language_model import Tokenizer

_SHOWN = 3
_PROBE = """\
def quantity_of(self, items: list[str], *, limit: int = 1024) -> float:
    \"\"\"Count « naïve » items — 漢字, 12 345.678.\"\"\"
    return sum(weights[item] for item in items if item not in self._excluded) / len(items)
"""
"""Text that different ways of splitting cut differently."""


@dataclass(frozen=True)
class Vocabularies:
    """Two tokenizers compared, such as a student's (`first`) and a teacher's (`second`).

    `relation`: "same" (the same map from text to ids), "tokens" (the same tokens by the same ids, but texts are split
    otherwise), "prefix" (one begins with all tokens of the other, and plain text is the same in both), "different". `sizes`
    are both true vocabularies, `shared` the number of ids from 0 with the same token in both, `differing` the first ids
    without, with the token of each.
    """

    relation: Literal["same", "tokens", "prefix", "different"]
    sizes: tuple[int, int]
    shared: int
    differing: tuple[tuple[int, str, str], ...] = ()

    @classmethod
    def compare(cls, first: Tokenizer, second: Tokenizer) -> Vocabularies:
        """Compare two tokenizers by their tokens, and by the ids of a few lines of code. Since 0.1."""
        sizes = (first.vocabulary, second.vocabulary)
        if first.fingerprint == second.fingerprint:
            return cls("same", sizes, first.vocabulary)
        pairs = list(zip_longest(first.tokens(), second.tokens(), fillvalue=""))
        shortest = min(sizes)
        differing = [(index, *pair) for index, pair in enumerate(pairs[:shortest]) if pair[0] != pair[1]]
        if differing:
            return cls("different", sizes, differing[0][0], tuple(differing[:_SHOWN]))
        if sizes[0] == sizes[1]:
            return cls("tokens", sizes, shortest)
        # A longer list of merges begins with the shorter one, too, but then models of the two expect other tokens.
        alike = first.encode(_PROBE) == second.encode(_PROBE)
        return cls("prefix" if alike else "different", sizes, shortest)

    @property
    def comparable(self) -> bool:
        """True if logits can be compared token by token, over the first `shared` tokens."""
        return self.relation != "different"

    def sentence(self, first: str, second: str) -> str:
        """Return a sentence on the differences, with the names of both sides; "" if they are the same."""
        if self.relation == "same":
            return ""
        sizes = f"{first} has {self.sizes[0]:,} tokens and {second} {self.sizes[1]:,}"
        if self.relation == "tokens":
            return (
                f"the tokenizers of {first} and {second} split texts differently into the same {self.shared:,} tokens"
            )
        if self.relation == "prefix":
            return f"{sizes}; the first {self.shared:,} are the same: they are compared over these"
        if not self.differing:
            return f"{sizes}; the first {self.shared:,} are the same, but they split texts differently"
        shown = "; ".join(f"{index} is {token!r} and {other!r}" for index, token, other in self.differing)
        return f"{sizes}; the first ids with different tokens: {shown}"


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
