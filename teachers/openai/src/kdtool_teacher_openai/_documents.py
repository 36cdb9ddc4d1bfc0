"""The documents of a batch, as requests: a server reads each of them by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import kdtool

__all__ = ["Piece", "documents_of"]


class Piece(NamedTuple):
    """A document of a row: its tokens, the positions whose next token is requested, and their positions in the signal."""

    tokens: list[int]
    places: list[int]
    targets: list[int]


def documents_of(batch: kdtool.Batch) -> Iterator[Piece]:
    """Yield the documents of a batch in which something is labelled; each is a separate request."""
    target = 0
    rows = zip(batch.input_ids.tolist(), batch.document.tolist(), batch.labels.tolist(), strict=True)
    for ids, documents, labels in rows:
        piece: Piece | None = None
        number = -1
        for token, document, label in zip(ids, documents, labels, strict=True):
            if piece is None or document != number:
                if piece is not None and piece.places:
                    yield piece
                piece, number = Piece([], [], []), document
            piece.tokens.append(token)
            if label != -100:
                piece.places.append(len(piece.tokens) - 1)
                piece.targets.append(target)
                target += 1
        if piece is not None and piece.places:
            yield piece
