"""Rows of equal length, filled without gaps.

`Packed` is the packer that recipes call `packed`. Examples become documents of tokens (`_documents`), which follow each
other and are cut into rows here, one at a time: nothing but the current row and document is in memory. `Pairs`, which
recipes call `pairs`, is in `_pairs`: a chosen and a rejected answer to a prompt in each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

import kdtool
import pydantic

from kdtool_packer_packed._documents import Document, FillInTheMiddle, document_of
from kdtool_packer_packed._pairs import Pairs
from kdtool_packer_packed._row import padded_row

__all__ = ["Packed", "Pairs"]

_ROW_BYTES = 9
"""A token's id and document in 32 bits each, and whether it is learned."""


class Packed(kdtool.Packer):
    """Concatenates documents, each with its end-of-text token, and cuts them into rows of exactly `length` tokens.

    A document that does not fit continues in the next row, as a document of its own there. The last row is padded. Rows
    in which no token would be learned are left out. What annotators say of characters comes to their tokens.
    """

    carries_annotations = True
    config: Config

    class Config(kdtool.Config):
        """Settings of `packed`."""

        length: int = kdtool.Field(default=512, ge=2, le=1_048_576)
        """Tokens in a row."""
        maximum_tokens: int | None = kdtool.Field(default=None, ge=2)
        """At most so many tokens of each split, in whole rows from the start; null takes all. For scarce data."""

        conversations: Literal["template", "plain"] = "template"
        """How they are written: by the tokenizer's chat template where it has one, or always with `### role` lines."""
        fim: FillInTheMiddle | None = None
        """Fill in the middle: cuts plain texts so that the student learns to fill gaps; null leaves them whole."""

        @pydantic.model_validator(mode="after")
        def _holds_a_row(self) -> Packed.Config:
            if self.maximum_tokens is not None and self.maximum_tokens < self.length:
                raise ValueError(f"maximum_tokens {self.maximum_tokens} is less than one row of length {self.length}")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.row_length = config.length

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.Prospect) -> Iterator[kdtool.Estimate]:
        limit = self.config.maximum_tokens
        if limit is not None:
            yield kdtool.Estimate("rows", tokens=limit, disk_bytes=limit * _ROW_BYTES, note="at most")

    def kdtool_rows(
        self, run: kdtool.RunInfo, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer
    ) -> Iterator[kdtool.Row]:
        """Yield rows as examples come in.

        Raises:
            UsageError: gaps are wanted, and the tokenizer has no marks for them; or its template refuses a conversation.
        """
        config = self.config
        if config.fim is not None and tokenizer.encode_infilling("", "", "", False) is None:
            raise kdtool.UsageError(
                "rows.fim: the student's tokenizer has no marks for a prefix, a suffix and a middle; take a student whose "
                "tokenizer has them, as those of StarCoder2, Code Llama, Qwen2.5-Coder and DeepSeek-Coder do, or leave "
                "out `fim`"
            )
        lost: list[str] = []
        rows = _rows(self._documents(examples, tokenizer, lost), config.length, tokenizer.end_of_text)
        limit = config.maximum_tokens
        yield from islice(rows, None if limit is None else limit // config.length)
        if lost:
            run.say(
                f"rows: the tokenizer writes other bytes than {len(lost):,} documents have, such as {lost[0]!r}: what "
                "annotators say of them did not come to all of their tokens, which are 0"
            )

    def _documents(
        self, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer, lost: list[str]
    ) -> Iterator[Document]:
        """Yield what is not empty; `lost` gets the ids of examples whose annotations did not come to all tokens."""
        for example in examples:
            document = document_of(example, tokenizer, self.config.fim, self.config.conversations)
            if document.lost:
                lost.append(example.id)
            if document.ids:
                yield document


def _rows(documents: Iterable[Document], length: int, padding: int) -> Iterator[kdtool.Row]:
    """Cut rows, without those in which nothing is learned."""
    key = ""
    for ids, labelled, document, columns in _cut(documents, length):
        if not any(labelled[i] and document[i] == document[i - 1] for i in range(1, len(ids))):
            continue
        numbers = [number - document[0] for number in document]
        row = padded_row(key, ids, labelled, numbers, length, padding, columns)
        key = row.key
        yield row


def _cut(
    documents: Iterable[Document], length: int
) -> Iterator[tuple[list[int], list[bool], list[int], dict[str, list[int]]]]:
    """Yield pieces of `length` tokens with the number of each token's document, and what remains at the end."""
    ids: list[int] = []
    labelled: list[bool] = []
    numbers: list[int] = []
    columns: dict[str, list[int]] = {}
    for number, document in enumerate(documents):
        ids += document.ids
        labelled += document.labelled
        numbers += [number] * len(document.ids)
        for name, values in document.columns.items():
            columns.setdefault(name, []).extend(values)
        while len(ids) >= length:
            firsts = {name: values[:length] for name, values in columns.items()}
            yield ids[:length], labelled[:length], numbers[:length], firsts
            del ids[:length], labelled[:length], numbers[:length]
            for values in columns.values():
                del values[:length]
    yield ids, labelled, numbers, columns
