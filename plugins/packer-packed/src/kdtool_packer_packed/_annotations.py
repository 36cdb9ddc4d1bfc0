"""Annotations of characters, carried to tokens. Called for each text that is encoded, where there are annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

__all__ = ["Part", "carried", "cut_in_parts"]

_SPACE = b" \t\n\r\v\f"


@dataclass(frozen=True)
class Part:
    """A stretch of text and what each column says of its characters."""

    text: str
    columns: Mapping[str, Sequence[int]]

    def __getitem__(self, where: slice) -> Part:
        return Part(self.text[where], {name: values[where] for name, values in self.columns.items()})


def cut_in_parts(texts: Iterable[str], annotations: Mapping[str, Sequence[int]]) -> list[Part]:
    """Return the texts, each with its own share of annotations that are of all texts one behind the other."""
    parts = []
    start = 0
    for text in texts:
        end = start + len(text)
        parts.append(Part(text, {name: values[start:end] for name, values in annotations.items()}))
        start = end
    return parts


def carried(pieces: Sequence[bytes], parts: Sequence[Part]) -> Mapping[str, Sequence[int]] | None:
    """Return the number of each token in each column, or None where a part's text is not among the tokens' bytes.

    A token takes the number of the character to which its first byte belongs that is no white space (of ASCII); one that is
    all white space that of its first byte. It is 0 where that byte lies outside of all parts, as in what a tokenizer or a
    template puts around them, and where a token has no bytes.

    Args:
        pieces: the bytes that each token stands for.
        parts: what to find in them, in this order, without overlap; all have the same columns.
    """
    content = b"".join(pieces)
    spread = {name: [0] * len(content) for name in (parts[0].columns if parts else ())}
    cursor = 0
    for part in parts:
        cursor = content.find(part.text.encode(), cursor)
        if cursor < 0:
            return None
        end = cursor + len(part.text.encode())
        for name, numbers in part.columns.items():
            spread[name][cursor:end] = chain.from_iterable(map(repeat, numbers, map(_size, part.text)))
        cursor = end
    tokens: dict[str, list[int]] = {name: [] for name in spread}
    start = 0
    for piece in pieces:
        black = piece.lstrip(_SPACE)
        telling = start + (len(piece) - len(black) if black else 0)
        for name, numbers in spread.items():
            tokens[name].append(numbers[telling] if piece else 0)
        start += len(piece)
    return tokens


def _size(character: str) -> int:
    return len(character.encode())
