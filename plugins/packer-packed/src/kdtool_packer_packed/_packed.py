"""The packer `packed`: concatenates documents and cuts them into rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import kdtool
import pydantic

from kdtool_packer_packed._documents import Document, FillInTheMiddle, document_of
from kdtool_packer_packed._row import padded_row

__all__ = ["Packed"]

_ROW_BYTES = 9
"""Bytes per token: its id and document in 32 bits each, and whether it is labelled."""


class Packed(kdtool.Packer):
    """Concatenates documents, each with its end-of-text token, and cuts them into rows of exactly `length` tokens.

    A document that does not fit continues in the next row, as a separate document. Each begins with the tokenizer's
    `document_start`; in a continued one, the first token of text is not labelled. The last row is padded, as are rows
    with room for a document start only. Rows without labels are dropped. Annotations of characters are mapped to tokens.
    """

    carries_annotations = True
    config: Config

    class Config(kdtool.Config):
        """Settings of `packed`."""

        length: int = kdtool.Field(default=512, ge=2, le=1_048_576)
        """Tokens per row."""
        maximum_tokens: int | None = kdtool.Field(default=None, ge=2)
        """Maximum tokens per split, in whole rows from the start, for experiments with scarce data; null uses all."""

        conversations: Literal["template", "plain"] = "template"
        """Format of conversations: the tokenizer's chat template if it has one, or always `### role` lines."""
        fim: FillInTheMiddle | None = None
        """Fill in the middle: cuts plain texts so that the student learns infilling; null leaves them whole."""

        @pydantic.model_validator(mode="after")
        def _holds_a_row(self) -> Packed.Config:
            if self.maximum_tokens is not None and self.maximum_tokens < self.length:
                raise ValueError(
                    f"maximum_tokens {self.maximum_tokens} is less than one row of length {self.length}; raise it, or lower "
                    "length"
                )
            return self

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.row_length = config.length

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        limit = self.config.maximum_tokens
        if limit is not None:
            yield kdtool.Estimate("tokenised rows", tokens=limit, disk_bytes=limit * _ROW_BYTES, note="at most")

    def kdtool_rows(
        self, run: kdtool.RunInfo, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer
    ) -> Iterator[kdtool.Row]:
        """Yield rows as examples come in.

        Raises:
            UsageError: `fim` is set but the tokenizer lacks infilling tokens, its chat template rejects a conversation, or
                rows only have room for a document start.
        """
        config, start = self.config, len(tokenizer.document_start)
        if config.length <= start:
            raise kdtool.UsageError(
                f"rows.length: a row of {config.length} tokens has no room after the {start} tokens that begin each "
                "document; raise it"
            )
        if config.fim is not None and tokenizer.encode_infilling("", "", "", False) is None:
            raise kdtool.UsageError(
                "rows.fim: the student's tokenizer lacks tokens for prefix, suffix and middle; use a tokenizer with them, "
                "such as that of StarCoder2, Code Llama, Qwen2.5-Coder or DeepSeek-Coder, or remove `fim`"
            )
        lost: list[str] = []
        rows = _rows(self._documents(examples, tokenizer, lost), config.length, start, tokenizer.end_of_text)
        limit = config.maximum_tokens
        yield from islice(rows, None if limit is None else limit // config.length)
        if lost:
            run.say(
                f"rows: the tokens of {len(lost):,} documents, such as {lost[0]!r}, have other bytes than their text, so "
                "some of their annotations are 0"
            )

    def _documents(
        self, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer, lost: list[str]
    ) -> Iterator[Document]:
        """Yield non-empty documents; append to `lost` the ids of examples with annotations that could not be mapped."""
        for example in examples:
            document = document_of(example, tokenizer, self.config.fim, self.config.conversations)
            if document.lost:
                lost.append(example.id)
            if document.ids:
                yield document


@dataclass
class _Tokens:
    """Tokens of a row; for each, whether it is labelled, the number of its document, and its annotations."""

    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    columns: dict[str, list[int]] = field(default_factory=dict)

    def add(self, number: int, document: Document, part: slice) -> None:
        """Append a part of a document. A continuation gets a document start, and no label on its first token."""
        ids, labelled = document.ids[part], document.labelled[part]
        start = document.ids[: document.start] if part.start else []
        if start:
            labelled[0] = False
        self.ids += [*start, *ids]
        self.labelled += [*[False] * len(start), *labelled]
        self.numbers += [number] * (len(start) + len(ids))
        for name, values in document.columns.items():
            self.columns.setdefault(name, []).extend([*[0] * len(start), *values[part]])


def _rows(documents: Iterable[Document], length: int, start: int, padding: int) -> Iterator[kdtool.Row]:
    """Cut documents into rows, and drop rows without labels."""
    key = ""
    for row in _cut(documents, length, start):
        numbers = row.numbers
        if not any(row.labelled[i] and numbers[i] == numbers[i - 1] for i in range(1, len(numbers))):
            continue
        numbers = [number - numbers[0] for number in numbers]
        made = padded_row(key, row.ids, row.labelled, numbers, length, padding, row.columns)
        key = made.key
        yield made


def _cut(documents: Iterable[Document], length: int, start: int) -> Iterator[_Tokens]:
    """Yield rows of `length` tokens, shorter ones if only a document's `start` tokens would fit, and the rest."""
    row = _Tokens()
    for number, document in enumerate(documents):
        done = 0
        while done < len(document.ids):
            if length - len(row.ids) <= start:
                yield row
                row = _Tokens()
            room = length - len(row.ids) - (start if done else 0)
            row.add(number, document, slice(done, done + room))
            done += room
    yield row
