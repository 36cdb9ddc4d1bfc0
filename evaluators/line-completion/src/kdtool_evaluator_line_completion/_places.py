"""Places in documents where a subject completes a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdtool_measuring import Document

__all__ = ["Place", "places_of"]

_FIRST_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])")
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Place:
    """A place: the text `before` it, with its line's first token, the `rest` of that line, and the text `after` that."""

    id: str
    document: str
    before: str
    rest: str
    after: str


def places_of(document: Document, most: int, context: int, suffix: int = 0) -> list[Place]:
    """Return at most `most` places of a document, in its order, each with at most `context` characters before it.

    At most `suffix` characters after the line, from its line break on, are `after` it.

    A place follows the first token of a line (a word, or one punctuation mark). At a line's start anything may follow, and
    a prompt that ends in indentation divides what tokenizers have as one token; after the first token the statement has
    begun, as when an editor is asked to complete it. The rest of the line has a letter or digit, so that a mere closing
    bracket never counts. The first line is left out, as nothing precedes it, and so is the text after the last line
    break: the document may be cut there. The choice follows the hashes of the document's id and the line's number.
    """
    places = list(_places(document, context, suffix))
    kept = set(
        nsmallest(most, (position.id for position in places), key=lambda name: sha256(name.encode("utf-8")).digest())
    )
    return [position for position in places if position.id in kept]


def _places(document: Document, context: int, suffix: int) -> Iterator[Place]:
    start = 0
    for number, line in enumerate(document.text.split("\n")[:-1], 1):
        begun = _FIRST_TOKEN.match(line)
        if number > 1 and begun and _WORD.search(line, begun.end()):
            before = document.text[: start + begun.end()]
            end = start + len(line)
            after = document.text[end : end + suffix]
            yield Place(f"{document.id}:{number}", document.id, _end_of(before, context), line[begun.end() :], after)
        start += len(line) + 1


def _end_of(text: str, most: int) -> str:
    """Return the end of a text, in whole lines if it contains a line break."""
    if len(text) <= most:
        return text
    end = text[-most:]
    _, broken, lines = end.partition("\n")
    return lines if broken else end
