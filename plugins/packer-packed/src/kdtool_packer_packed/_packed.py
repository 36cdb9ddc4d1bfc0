"""The packer `packed`: concatenates documents and cuts them into rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import kdtool
import pydantic

from kdtool_packer_packed._annotations import Part
from kdtool_packer_packed._documents import Document, document_of
from kdtool_packer_packed._pieces import Answers, FillInTheMiddle, Infilling, Pieces, Plain
from kdtool_packer_packed._row import padded_row

__all__ = ["Packed"]

_ROW_BYTES = 9
"""Bytes per token: its id and document in 32 bits each, and whether it is labelled."""


class Packed(kdtool.Packer):
    """Concatenates documents, each with its end-of-text token, and cuts them into rows of exactly `length` tokens.

    A plain text that does not fit continues in the next row, as a separate document. Each begins with the tokenizer's
    `document_start`; in a continued one, the first token of text is not labelled. A prompt and its answer begin a new row
    if they do not fit; one that is longer than a row continues after the end of its prompt. Rows are padded after their
    last piece, and dropped if they have no labels. Annotations of characters are mapped to tokens.
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
        if limit is None:
            note = f"their disk, {_ROW_BYTES} bytes per token and those of the text, is known when the text is read"
            yield kdtool.Estimate("text and rows", note=f"{note}; rows.maximum_tokens bounds the rows")
        else:
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
        report = _Report()
        rows = _rows(
            _cut(self._documents(examples, tokenizer), config.length, report), config.length, tokenizer.end_of_text
        )
        limit = config.maximum_tokens
        yield from islice(rows, None if limit is None else limit // config.length)
        for message in report.messages():
            run.say(message)

    def _documents(
        self, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer
    ) -> Iterator[tuple[str, Pieces]]:
        """Yield the id of each example with text, and its pieces."""
        for example in examples:
            if isinstance(example.body, kdtool.Text) and self.config.fim is not None:
                part = Part(example.body.text, example.annotations)
                infilling = Infilling(example.id, part, tokenizer, self.config.fim, self.config.length)
                if infilling.is_selected:
                    yield example.id, infilling
                    continue
            document = document_of(example, tokenizer, self.config.conversations)
            if document.ids:
                prompted = not all(document.labelled[document.start :])
                yield example.id, Answers(document, self.config.length) if prompted else Plain(document)


@dataclass
class _Report:
    """Ids of examples to report once all rows are made."""

    lost: list[str] = field(default_factory=list)
    """Annotations could not be mapped to tokens."""
    too_long: list[str] = field(default_factory=list)
    """An answer does not fit into a row together with its prompt."""

    def messages(self) -> Iterator[str]:
        """Yield a message for each kind."""
        if self.lost:
            yield (
                f"rows: the tokens of {len(self.lost):,} documents, such as {self.lost[0]!r}, have other bytes than their "
                "text, so some of their annotations are 0"
            )
        if self.too_long:
            yield (
                f"rows: {len(self.too_long):,} prompts with their answers, such as {self.too_long[0]!r}, are longer than a "
                "row; their answers are cut, and each part follows the prompt, at most half a row of it; raise `length` to "
                "keep them whole"
            )


@dataclass
class _Tokens:
    """Tokens of a row; for each, whether it is labelled, the number of its document, and its annotations."""

    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    columns: dict[str, list[int]] = field(default_factory=dict)

    def add(self, piece: Document) -> None:
        """Append a piece of a document."""
        number = self.numbers[-1] + 1 if self.numbers else 0
        self.ids += piece.ids
        self.labelled += piece.labelled
        self.numbers += [number] * len(piece.ids)
        for name, values in piece.columns.items():
            self.columns.setdefault(name, []).extend(values)


def _rows(cut: Iterable[_Tokens], length: int, padding: int) -> Iterator[kdtool.Row]:
    """Pad rows, and drop those without labels."""
    key = ""
    for row in cut:
        numbers = row.numbers
        if not any(row.labelled[i] and numbers[i] == numbers[i - 1] for i in range(1, len(numbers))):
            continue
        made = padded_row(key, row.ids, row.labelled, numbers, length, padding, row.columns)
        key = made.key
        yield made


def _cut(documents: Iterable[tuple[str, Pieces]], length: int, report: _Report) -> Iterator[_Tokens]:
    """Yield rows of at most `length` tokens: shorter if the next piece does not fit, and for the last row."""
    row = _Tokens()
    for identifier, document in documents:
        lost = False
        while not document.is_finished:
            piece = document.cut(length - len(row.ids))
            if piece is None:
                yield row
                row = _Tokens()
            else:
                row.add(piece)
                lost = lost or piece.lost
        if lost:
            report.lost.append(identifier)
        if isinstance(document, Answers) and document.too_long and document.done:
            report.too_long.append(identifier)
    yield row
