"""Map annotations of characters to tokens. Called for each encoded text with annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

__all__ = ["Part", "annotate_tokens", "cut_in_parts"]

_SPACE = b" \t\n\r\v\f"


@dataclass(frozen=True)
class Part:
    """A span of text, and each column's number for each of its characters."""

    text: str
    columns: Mapping[str, Sequence[int]]

    def __getitem__(self, where: slice) -> Part:
        return Part(self.text[where], {name: values[where] for name, values in self.columns.items()})


def cut_in_parts(texts: Iterable[str], annotations: Mapping[str, Sequence[int]]) -> list[Part]:
    """Return the texts with their annotations, given those of the concatenated texts."""
    parts = []
    start = 0
    for text in texts:
        end = start + len(text)
        parts.append(Part(text, {name: values[start:end] for name, values in annotations.items()}))
        start = end
    return parts


def annotate_tokens(pieces: Sequence[bytes], parts: Sequence[Part]) -> Mapping[str, Sequence[int]] | None:
    """Return each column's number for each token, or None if a part's text does not occur in the tokens' bytes.

    A token gets the number of the character of its first byte that is not ASCII white space; an all-white token that of its
    first byte. The number is 0 for tokens without bytes, and for bytes outside all parts, such as text that a tokenizer or
    a template adds.

    Args:
        pieces: the bytes of each token.
        parts: the texts to find in them, in this order, without overlap; all have the same columns.
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
        first = start + (len(piece) - len(black) if black else 0)
        for name, numbers in spread.items():
            tokens[name].append(numbers[first] if piece else 0)
        start += len(piece)
    return tokens


def _size(character: str) -> int:
    return len(character.encode())
