"""Passages of the training text: a prefix to prompt a model with, and its continuation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest

import kdtool
from kdtool_measuring import text_of

from kdtool_overlap._words import spans_of

__all__ = ["Passage", "beginning", "passages_of"]

_CHARACTERS_A_WORD = 24
"""A passage with longer words on average is data rather than text, and would fill a model's context."""


@dataclass(frozen=True)
class Passage:
    """Adjacent `prefix` and `continuation` in a `document`; `id` is the document's with the index of the first word."""

    id: str
    document: str
    prefix: str
    continuation: str


def beginning(examples: Iterable[kdtool.Example], characters: int | None) -> Iterator[tuple[str, str]]:
    """Yield id and text of the examples, cut after `characters` in total; None yields all."""
    left, seen = characters, set[str]()
    for example in examples:
        if left is not None and left <= 0:
            return
        text = text_of(example.body)[:left]
        left = None if left is None else left - len(text)
        name = f"{example.id}#{len(seen)}" if example.id in seen else example.id  # corpora may have an id in common
        seen.add(name)
        yield name, text


def passages_of(documents: Iterable[tuple[str, str]], most: int, prefix: int, continuation: int) -> list[Passage]:
    """Select passages by the hashes of their ids: the same on every machine, spread evenly over all text.

    Passages of a document do not overlap.

    Args:
        documents: id and text of each.
        most: maximum number of passages.
        prefix: words in the prompt.
        continuation: words after it.
    """
    passages = (passage for document in documents for passage in _cut(*document, prefix, continuation))
    return nsmallest(most, passages, key=lambda passage: sha256(passage.id.encode("utf-8")).digest())


def _cut(document: str, text: str, prefix: int, continuation: int) -> Iterator[Passage]:
    spans, words = spans_of(text), prefix + continuation
    for first in range(0, len(spans) - words + 1, words):
        start, middle, end = spans[first][0], spans[first + prefix - 1][1], spans[first + words - 1][1]
        if end - start <= _CHARACTERS_A_WORD * words:
            yield Passage(f"{document} {first}", document, text[start:middle], text[middle:end])
