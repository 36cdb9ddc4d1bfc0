"""Text, tokenizers, rows of tokens, and batches: the data between corpora, packers, teachers and trainers.

Text is free of any tokenizer. Rows follow one tokenizer. Only a `Batch` holds tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from kdtool._errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "validation", "test"]
"""`train` is learned from, `validation` chooses settings, `test` is scored once and never chosen on."""


@dataclass(frozen=True)
class Text:
    """Plain text: every token is learned."""

    text: str


@dataclass(frozen=True)
class Completion:
    """A prompt and its completion: only the completion's tokens are learned."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Preference(Completion):
    """A completion that is chosen over another one, `rejected`, of the same prompt.

    Components without support for preferences see the prompt with its chosen completion.
    """

    rejected: str


@dataclass(frozen=True)
class Messages:
    """A conversation as (role, content) pairs: only the assistant's turns are learned."""

    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Example:
    """One document of a corpus.

    `id` is unique within its corpus and stable between runs. `language` is a programming language in lower case or "".
    `licence` is an SPDX expression or "" if unknown. `source` is the origin of the text. `annotations` are the columns that
    weightings label: a name, and one number per character of the body's concatenated parts. Only packers see them.
    """

    id: str
    body: Text | Completion | Messages
    split: Split = "train"
    language: str = ""
    licence: str = ""
    source: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of tokens, not yet shifted.

    All sequences have the row's length. `labelled[i]` is true if token i is a target (predicted from tokens before it, in
    the same document). `document[i]` numbers the row's documents from 0; attention and positions do not cross a boundary,
    and padding carries -1. `columns` are further per-token integers (syntax class, origin …).

    In a column `rejected`, 1 marks tokens of a rejected answer. Losses of single tokens have no weight there, so that the
    student imitates only the other tokens. Losses of whole rows see all of them.

    `turn` is set by trainers: the number of earlier uses of the row in the phase, counted from the run's seed. It chooses
    among several recorded signals of the row.
    """

    key: str
    input_ids: Sequence[int]
    labelled: Sequence[bool]
    document: Sequence[int]
    columns: Mapping[str, Sequence[int]] = field(default_factory=dict)
    turn: int = 0


class RowSource(Protocol):
    """Rows on disk, read at random. All rows have the same length."""

    @property
    def fingerprint(self) -> str:
        """Identifies the rows' content: the same text, tokenizer and packer give the same fingerprint."""

    @property
    def length(self) -> int:
        """Tokens in a row."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


class TextSource(Protocol):
    """A recipe's examples, after the filters, split by split."""

    def examples(self, split: Split) -> Iterator[Example]:
        """Yield the examples of one split, always in the same order."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows as tensors, on one device. B rows of L tokens; N is the number of positions with a label, row-major.

    `labels` are shifted already: `labels[b, i]` is the token that position i predicts, or -100 without a target (the last
    position of a document, masked tokens, padding). `positions` restart at 0 with each document. `document` is -1 on
    padding. `columns` are shifted like the labels: an entry describes the token that its position predicts, and is 0 where
    there is no label. Every tensor is [B, L]; ids, positions and labels are int64, `document` int32. `turns` holds the
    `turn` of each row; () stands for zeros.
    """

    input_ids: Tensor
    positions: Tensor
    labels: Tensor
    document: Tensor
    row_keys: tuple[str, ...]
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    turns: tuple[int, ...] = ()


def parts_of(body: Text | Completion | Messages) -> tuple[str, ...]:
    """Return the parts of a body's text in order: the text, prompt and completion, or each turn's content. Since 0.1."""
    if isinstance(body, Text):
        return (body.text,)
    if isinstance(body, Completion):
        return body.prompt, body.completion
    return tuple(content for _, content in body.turns)


class Tokenizer(ABC):
    """Text to token ids and back.

    Required: `vocabulary`, `end_of_text`, `fingerprint` (class attributes will do), `encode` and `pieces`. Everything else
    has a default for plain tokenizers: without special tokens before a text, chat template or FIM tokens.
    """

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The true vocabulary size V: ids are below it."""

    @property
    @abstractmethod
    def end_of_text(self) -> int:
        """The id that ends a document."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the map from text to ids: equal fingerprints mean equal tokenizers."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens added."""

    @abstractmethod
    def pieces(self, ids: Sequence[int]) -> Sequence[bytes]:
        """Return the bytes that each of `ids` adds to their text, none for special tokens: together the UTF-8 of `decode`.

        A character may be divided among tokens; ids may begin and end within one. Since 0.1.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out. By default the text of their `pieces`."""
        return b"".join(self.pieces(ids)).decode("utf-8", errors="replace")

    def tokens(self) -> Sequence[str]:
        """Return every id's token as the tokenizer names it, in order of ids, "" for an id without one: `vocabulary` names.

        If two tokenizers begin with the same names, these ids mean the same to models of both. By default an id is named by
        its bytes; special tokens except the end, and further ids of the same bytes, have names that are unique to this
        tokenizer.
        Since 0.1.
        """
        names: list[str] = []
        known = {b""}
        for number, piece in enumerate(self.pieces(range(self.vocabulary))):
            name = f"<{self.fingerprint} {number}>" if piece in known else f"<{piece.hex()}>"
            names.append("<end>" if number == self.end_of_text else name)
            known.add(piece)
        return names

    def save(self, folder: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` opens it.

        Raises:
            UsageError: it has no such files, which is the default: students with this tokenizer cannot be saved for others.
        """
        raise UsageError(f"{type(self).__name__} cannot be written as files of transformers; implement Tokenizer.save")

    @property
    def document_start(self) -> tuple[int, ...]:
        """The ids that begin every document: those that the tokenizer itself puts before a text, such as Llama's `<s>`.

        () if it puts none. They stand for no bytes of text. Since 0.1.
        """
        return ()

    @property
    def scoring_context(self) -> tuple[int, ...]:
        """The ids after which the first token of a text is scored: `document_start`, else the end-of-text token.

        Models without a start token are pre-trained on documents that follow each other, so that most of them
        come after an end of text. Since 0.1.
        """
        return self.document_start or (self.end_of_text,)

    def missing_start(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the ids to put before a document: `document_start`, or () if `ids` already begin with it.

        Chat templates may write it themselves. Since 0.1.
        """
        start = self.document_start
        return () if tuple(ids[: len(start)]) == start else start

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the ids of `text` when it follows `before`, so that the ids of both, in this order, decode to both.

        A sentencepiece-style tokenizer, which puts a space before every text, adds none here. No token belongs to both
        texts. The last part of the preceding text is enough; "" if there is none. Since 0.1.
        """
        return self.encode(text)

    chat_fingerprint: str = ""
    """Identifies the template of `encode_chat`; "" if the tokenizer has none. Since 0.1."""

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]] | None:
        """Return the ids of a conversation in the tokenizer's template, and for each whether it is learned.

        The assistant's answers are learned, each with the token that ends it. None if there is no template. Raises a
        `UsageError` if a template cannot be split in this way, or refuses the conversation. Since 0.1.
        """
        return None

    def encode_prompt(self, turns: Sequence[tuple[str, str]], opening: str = "") -> list[int]:
        """Return the ids of a conversation in the tokenizer's template, up to the assistant's next turn: what a model gets.

        That turn begins with `opening`. The ids begin with `document_start`. Since 0.1.

        Raises:
            UsageError: a chat template is missing, or it refuses the conversation.
        """
        raise UsageError(f"{type(self).__name__} lacks a chat template for prompts; implement Tokenizer.encode_prompt")

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        """Return the ids of a text whose middle comes last, between the tokenizer's FIM tokens, and its end.

        `before` comes first, or with `suffix_first` the text after the middle. None if there are no FIM tokens. Since 0.1.
        """
        return None
