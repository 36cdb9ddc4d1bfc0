"""The packer `packed`: documents follow each other and are cut into rows."""

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
"""A token's id and document in 32 bits each, and whether it is learned."""


class Packed(kdtool.Packer):
    """Concatenates documents, each with its end-of-text token, and cuts them into rows of exactly `length` tokens.

    A document that does not fit continues in the next row, as a document of its own there. Each begins with the
    tokenizer's `document_start`; a continued one does not learn its first token of text, since no text begins there. The
    last row is padded, and others where only a start would fit. Rows in which no token would be learned are left out. What
    annotators say of characters comes to their tokens.
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

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        limit = self.config.maximum_tokens
        if limit is not None:
            yield kdtool.Estimate("rows", tokens=limit, disk_bytes=limit * _ROW_BYTES, note="at most")

    def kdtool_rows(
        self, run: kdtool.RunInfo, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer
    ) -> Iterator[kdtool.Row]:
        """Yield rows as examples come in.

        Raises:
            UsageError: gaps are wanted, and the tokenizer has no marks for them; its template refuses a conversation; or
                rows hold no more than the start of a document.
        """
        config, start = self.config, len(tokenizer.document_start)
        if config.length <= start:
            raise kdtool.UsageError(
                f"rows.length: a row of {config.length} tokens has no room behind the {start} with which the "
                "tokenizer begins a document; give rows more tokens"
            )
        if config.fim is not None and tokenizer.encode_infilling("", "", "", False) is None:
            raise kdtool.UsageError(
                "rows.fim: the student's tokenizer has no marks for a prefix, a suffix and a middle; take a student whose "
                "tokenizer has them, as those of StarCoder2, Code Llama, Qwen2.5-Coder and DeepSeek-Coder do, or leave "
                "out `fim`"
            )
        lost: list[str] = []
        rows = _rows(self._documents(examples, tokenizer, lost), config.length, start, tokenizer.end_of_text)
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


@dataclass
class _Tokens:
    """Tokens of a row, and of each whether it is learned, the number of its document, and what annotators say of it."""

    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    columns: dict[str, list[int]] = field(default_factory=dict)

    def add(self, number: int, document: Document, part: slice) -> None:
        """Add a part of a document. One that is not its beginning gets a start of its own, and learns no first token."""
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
    """Cut rows, without those in which nothing is learned."""
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
    """Yield rows of `length` tokens, or less where only the `start` tokens of a document would fit, and what remains."""
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
