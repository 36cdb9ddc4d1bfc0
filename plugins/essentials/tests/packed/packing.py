"""Tokenizers, and the documents of packed rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import kdtool
from kdtool_essentials.packed import Packed
from kdtool_testing import ByteTokenizer, make_run

END = ByteTokenizer.end_of_text
PREFIX, SUFFIX, MIDDLE = 257, 258, 259
Tokens = list[tuple[int, bool]]


class Infilling(ByteTokenizer):
    """Bytes, with FIM tokens; a text with <marked> in it cannot be divided."""

    vocabulary = 260

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        if "<marked>" in before + middle + after:
            return None
        if suffix_first:
            return [PREFIX, SUFFIX, *after.encode(), MIDDLE, *(before + middle).encode(), END]
        return [PREFIX, *before.encode(), SUFFIX, *after.encode(), MIDDLE, *middle.encode(), END]


def pack(
    bodies: Sequence[Any], tokenizer: kdtool.Tokenizer | None = None, **settings: Any
) -> tuple[list[kdtool.Row], list[str]]:
    said: list[str] = []
    examples = [kdtool.Example(f"e{number}", body) for number, body in enumerate(bodies)]
    packer = Packed(Packed.Config.model_validate(settings))
    return list(packer.kdtool_rows(make_run(Path(), say=said.append), examples, tokenizer or ByteTokenizer())), said


def documents_of(rows: Sequence[kdtool.Row]) -> list[Tokens]:
    """Return the tokens of each document of each row, and whether they are labelled."""
    found = []
    for row in rows:
        tokens = zip(row.document, row.input_ids, row.labelled, strict=True)
        for number, part in groupby(tokens, lambda token: token[0]):
            if number >= 0:
                found.append([(token, labelled) for _, token, labelled in part])
    return found


def text_of(ids: Sequence[int]) -> str:
    """Return the text of a document, its middle back between prefix and suffix."""
    assert ids[-1] == END
    if ids[0] != PREFIX:
        return bytes(ids[:-1]).decode()
    assert [ids.count(mark) for mark in (PREFIX, SUFFIX, MIDDLE, END)] == [1, 1, 1, 1]
    suffix, middle = ids.index(SUFFIX), ids.index(MIDDLE)
    return bytes([*ids[1:suffix], *ids[middle + 1 : -1], *ids[suffix + 1 : middle]]).decode()
