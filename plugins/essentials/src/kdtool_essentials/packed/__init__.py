"""The packers `packed` and `pairs`: rows of equal length.

`packed` makes documents of tokens from examples, concatenates them without gaps and cuts them into rows; only the
current row and document are in memory. In `pairs`, a row has a chosen and a rejected answer to the same prompt, side by
side.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import kdtool
import pydantic

from kdtool_essentials.packed.documents import Document, Part, document_of, is_unanswered, prompt_of
from kdtool_essentials.packed.pieces import Answers, FillInTheMiddle, Infilling, Pieces, Plain

__all__ = ["Packed", "Pairs"]
_ROW_BYTES = 9
"""Bytes per token: its id and document in 32 bits each, and whether it is labelled."""


class Packed(kdtool.Packer):
    """Concatenates documents, each with its end-of-text token, and cuts them into rows of exactly `length` tokens.

    A plain text that does not fit continues in the next row, as a separate document. Each begins with the tokenizer's
    `document_start`; in a continued one, the first token of text is not labelled. A prompt and its answer begin a new row
    if they do not fit; one that is longer than a row continues after the end of its prompt. Rows are padded after their
    last piece, and dropped if they have no labels. Annotations of characters are mapped to tokens. With `room`, prompts
    without an answer are documents without labels, and their rows are kept.
    """

    carries_annotations = True
    config: Config

    class Config(kdtool.Config):
        """Settings of `packed`."""

        length: int = kdtool.Field(default=512, ge=2, le=1_048_576)
        """Tokens per row."""
        maximum_tokens: int | None = kdtool.Field(default=None, ge=2)
        """Maximum tokens per split, in whole rows from the start, for experiments with scarce data; null uses all."""

        room: int = kdtool.Field(default=0, ge=0)
        """Tokens to keep free in a row for each document with a prompt, for the student's text in on-policy training. 0
        leaves out prompts without answers."""

        conversations: Literal["template", "plain"] = "template"
        """Format of conversations: the tokenizer's chat template if it has one, or always `### role` lines."""
        control_tokens: bool = False
        """True reads control tokens in plain texts, prompts and completions as tokens, for text that a template wrote. In
        turns, and in texts that `fim` cuts, they are text."""
        fim: FillInTheMiddle | None = None
        """Fill in the middle: cuts plain texts so that the student learns infilling; null leaves them whole."""

        @pydantic.model_validator(mode="after")
        def _holds_a_row(self) -> Packed.Config:
            if self.maximum_tokens is not None and self.maximum_tokens < self.length:
                raise ValueError(
                    f"maximum_tokens {self.maximum_tokens} is less than one row of length {self.length}; raise it, or lower "
                    "length"
                )
            if self.room > self.length - 2:
                raise ValueError(
                    f"room {self.room} leaves too little of rows of length {self.length} for prompts; lower it, or raise "
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
        if config.length - config.room <= start:
            raise kdtool.UsageError(
                f"rows.length: a row of {config.length} tokens has no room after the {start} tokens that begin each "
                f"document{' and the free ones of `room`' if config.room else ''}; raise it"
            )
        if config.fim is not None and tokenizer.encode_infilling("", "", "", False) is None:
            raise kdtool.UsageError(
                "rows.fim: the student's tokenizer lacks tokens for prefix, suffix and middle; use a tokenizer with them, "
                "such as that of StarCoder2, Code Llama, Qwen2.5-Coder or DeepSeek-Coder, or remove `fim`",
                {"fim": None},
            )
        report = _Report()
        rows = _pad_rows(
            _cut_rows(self._documents(examples, tokenizer, report), config.length, config.room, report),
            config.length,
            tokenizer.end_of_text,
        )
        limit = config.maximum_tokens
        yield from islice(rows, None if limit is None else limit // config.length)
        for message in report.messages(config.room):
            run.say(message)

    def _documents(
        self, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer, report: _Report
    ) -> Iterator[tuple[str, Pieces]]:
        """Yield the id of each example with text, and its pieces."""
        room, longest = self.config.room, self.config.length - self.config.room
        shortest = len(tokenizer.document_start) + 2  # a single token without a label is the end of a text that was cut
        for example in examples:
            if is_unanswered(example.body, at_the_end=room > 0):
                prompt = self._prompt(example, tokenizer) if room else Document()
                if shortest <= len(prompt.ids) <= longest:
                    yield example.id, Answers(prompt, longest)
                else:
                    report.unanswered.append(example.id)
                continue
            if isinstance(example.body, kdtool.Text) and self.config.fim is not None:
                part = Part(example.body.text, example.annotations)
                infilling = Infilling(example.id, part, tokenizer, self.config.fim, self.config.length)
                if infilling.is_selected:
                    yield example.id, infilling
                    continue
            document = document_of(example, tokenizer, self.config.conversations, self.config.control_tokens)
            if document.ids and not any(document.labelled):
                report.unanswered.append(example.id)
            elif document.ids:
                prompted = not all(document.labelled[document.start :])
                yield example.id, Answers(document, longest) if prompted else Plain(document)

    def _prompt(self, example: kdtool.Example, tokenizer: kdtool.Tokenizer) -> Document:
        if example.annotations:  # rows keep annotations of learned tokens only
            raise kdtool.UsageError(
                f"rows.room: {example.id!r} is a prompt without an answer, so it has no learned tokens to carry "
                f"{', '.join(example.annotations)}; give prompts with answers, or leave out what labels text"
            )
        return prompt_of(example, tokenizer, self.config.conversations, self.config.control_tokens)


@dataclass
class _Report:
    """Ids of examples to report once all rows are made."""

    lost: list[str] = field(default_factory=list)
    """Annotations could not be mapped to tokens."""
    too_long: list[str] = field(default_factory=list)
    """An answer does not fit into a row together with its prompt."""
    unanswered: list[str] = field(default_factory=list)
    """A prompt without an answer was left out."""

    def messages(self, room: int) -> Iterator[str]:
        """Yield a message for each kind."""
        if self.lost:
            yield (
                f"rows: some annotations are 0, because the tokens of {kdtool.count_of(len(self.lost), 'document')}, such "
                f"as {self.lost[0]!r}, have other bytes than the text"
            )
        if self.too_long:
            yield (
                f"rows: too long for one row: {kdtool.count_of(len(self.too_long), 'prompt')} with the answer, such as "
                f"{self.too_long[0]!r}; answers are cut, and each part follows the prompt, at most half a row of it; raise "
                "`length` to keep them whole"
            )
        if self.unanswered:
            unfit = f": fewer than two tokens, or too long for a row with {room:,} free ones; raise `length`"
            yield (
                f"rows: left out {kdtool.count_of(len(self.unanswered), 'prompt')} without an answer, such as "
                f"{self.unanswered[0]!r}{unfit if room else '; set `room` to train on them on-policy'}"
            )


@dataclass
class _Tokens:
    """Tokens of a row; for each, whether it is labelled, the number of its document, and its annotations.

    `reserved` tokens stay free after them.
    """

    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    columns: dict[str, list[int]] = field(default_factory=dict)
    reserved: int = 0

    def add(self, piece: Document) -> None:
        """Append a piece of a document."""
        number = self.numbers[-1] + 1 if self.numbers else 0
        self.ids += piece.ids
        self.labelled += piece.labelled
        self.numbers += [number] * len(piece.ids)
        for name, values in piece.columns.items():
            self.columns.setdefault(name, []).extend(values)


def _pad_rows(cut: Iterable[_Tokens], length: int, padding: int) -> Iterator[kdtool.Row]:
    """Pad rows, and drop those without labels, unless tokens are reserved for the student's text."""
    key = ""
    for row in cut:
        numbers = row.numbers
        if not row.reserved and not any(
            row.labelled[i] and numbers[i] == numbers[i - 1] for i in range(1, len(numbers))
        ):
            continue
        made = padded_row(key, row.ids, row.labelled, numbers, length, padding, row.columns)
        key = made.key
        yield made


def _cut_rows(documents: Iterable[tuple[str, Pieces]], length: int, room: int, report: _Report) -> Iterator[_Tokens]:
    """Yield rows of at most `length` tokens: shorter if the next piece does not fit, and for the last row.

    For each piece with a prompt, `room` tokens stay free.
    """
    row = _Tokens()
    for identifier, document in documents:
        lost, reserved = False, room if isinstance(document, Answers) else 0
        while not document.is_finished:
            piece = document.cut(length - len(row.ids) - row.reserved - reserved)
            if piece is None:
                yield row
                row = _Tokens()
            else:
                row.add(piece)
                row.reserved += reserved
                lost = lost or piece.lost
        if lost:
            report.lost.append(identifier)
        if isinstance(document, Answers) and document.too_long and document.done:
            report.too_long.append(identifier)
    yield row


_TOO_LONG = "left out: their answers leave no room for a prompt"
_SAME = "left out: both answers are the same"
_EMPTY = "left out: they have no prompt"
_CUT = "without the beginning of their prompt"


class Pairs(kdtool.Packer):
    """One preference per row: prompt and chosen answer, then prompt and rejected answer, as two documents.

    Answers are labelled, each with its end-of-text token; the column `rejected` is 1 on the second document. A long prompt
    loses its beginning, in both documents alike. Pairs are dropped if the answers leave no room for the prompt, if the
    prompt is empty, or if both answers are the same; messages count them.
    """

    columns = frozenset({"rejected"})
    config: Config

    class Config(kdtool.Config):
        """Settings of `pairs`."""

        length: int = kdtool.Field(default=1024, ge=4, le=1_048_576)
        """Tokens per row: both documents and padding."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.row_length = config.length

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        yield kdtool.Estimate("text and rows", note="their disk is known when the text is read")

    def kdtool_rows(
        self, run: kdtool.RunInfo, examples: Iterable[kdtool.Example], tokenizer: kdtool.Tokenizer
    ) -> Iterator[kdtool.Row]:
        """Yield rows as examples come in.

        Raises:
            UsageError: an example is not a preference.
        """
        key, pairs, said = "", 0, Counter[str]()
        for example in examples:
            pairs += 1
            chosen, rejected = self._documents(example, tokenizer, said)
            if not rejected.ids:
                continue
            first, second = len(chosen.ids), len(rejected.ids)
            row = padded_row(
                key,
                chosen.ids + rejected.ids,
                chosen.labelled + rejected.labelled,
                [0] * first + [1] * second,
                self.config.length,
                tokenizer.end_of_text,
                {"rejected": [0] * first + [1] * second},
            )
            key = row.key
            yield row
        for what, count in said.items():
            if count:
                run.say(f"pairs: {count:,} of {pairs:,} {what} (`length` is {self.config.length:,} tokens)")

    def _documents(
        self, example: kdtool.Example, tokenizer: kdtool.Tokenizer, said: Counter[str]
    ) -> tuple[Document, Document]:
        """Return both documents, empty if the pair is dropped; count dropped and cut pairs in `said`."""
        body = example.body
        if not isinstance(body, kdtool.Preference):
            raise kdtool.UsageError(
                f"rows: pairs needs preferences, with a chosen and a rejected answer to a prompt, but {example.id!r} of "
                f"{example.source or 'the corpus'} is not one; use a corpus of preferences (jsonl reads the fields prompt, "
                "chosen and rejected), or set `rows: {use: packed}`"
            )
        answers = (kdtool.Completion(body.prompt, text) for text in (body.completion, body.rejected))
        both = [document_of(kdtool.Example(example.id, answer), tokenizer, "plain") for answer in answers]
        start = both[0].start
        prompt = both[0].labelled.index(True) - start
        room = (self.config.length - sum(sum(document.labelled) for document in both)) // 2 - start
        unfit = _SAME if body.completion == body.rejected else _EMPTY if not prompt else _TOO_LONG if room < 1 else None
        if unfit is not None:
            said[unfit] += 1
            return Document(), Document()
        surplus = max(0, prompt - room)
        said[_CUT] += surplus > 0
        for document in both:
            del document.ids[start : start + surplus], document.labelled[start : start + surplus]
        chosen, rejected = both
        return chosen, rejected


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
