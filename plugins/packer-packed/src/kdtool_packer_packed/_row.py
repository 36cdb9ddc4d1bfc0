"""Make a row of tokens: padded to the common length, with a unique key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import kdtool

__all__ = ["padded_row"]


def padded_row(
    before: str,
    ids: Sequence[int],
    labelled: Sequence[bool],
    document: Sequence[int],
    length: int,
    padding: int,
    columns: Mapping[str, Sequence[int]] | None = None,
) -> kdtool.Row:
    """Return tokens as a row of `length` tokens.

    Its key hashes its tokens, labels and documents, and the key of the row `before`, so that repeated texts get different
    keys. Annotations do not affect the key.
    """
    missing = length - len(ids)
    row = [*ids, *[padding] * missing], [*labelled, *[False] * missing], [*document, *[-1] * missing]
    padded_columns = {name: [*values, *[0] * missing] for name, values in (columns or {}).items()}
    key = hashlib.sha256(repr((before, *row)).encode("ascii")).hexdigest()[:32]
    return kdtool.Row(key, *row, padded_columns)
