"""Text, rows of tokens, and batches: the data between corpora, packers, teachers and trainers.

Text is free of any tokenizer. Rows follow one tokenizer. Only a `Batch` holds tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

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

    @classmethod
    def of(cls, messages: object, system: object = None, tools: object = None) -> Messages:
        """Return the conversation in a record of OpenAI's form, or of ShareGPT's (`from` and `value`).

        Nothing is left out: a `system` text becomes the first turn, and what a turn cannot hold is
        refused by name, such as `tools`, tool calls, reasoning, and weights of turns. Since 0.1.

        Raises:
            ValueError: something cannot be used; the message follows the name of the field or column.
        """
        if not isinstance(messages, list | tuple) or not messages:
            raise ValueError("must be a list of messages; JSON in text is read by json.loads first")
        if tools:
            raise ValueError("comes with tools, which kdtool does not follow: leave such rows out")
        turns = [_turn(number, message) for number, message in enumerate(messages, 1)]
        if isinstance(system, str) and system and turns[0][0] != "system":
            turns.insert(0, ("system", system))
        return cls(tuple(turns))


_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant"}
_TURN = {"role": ("role", "from"), "content": ("content", "value")}
_LEARNED: Mapping[str, object] = {"weight": 1, "train": True}
"""Values that change nothing: the assistant's turns are learned."""


def _turn(number: int, message: object) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise ValueError(f'message {number} must be an object with the texts "role" and "content"')  # noqa: TRY004
    texts = []
    for name, keys in _TURN.items():
        value = next((message[key] for key in keys if message.get(key) is not None), None)
        if not isinstance(value, str):
            what = "is missing" if value is None else f"must be text, not {type(value).__name__}"
            raise ValueError(f'message {number}: "{name}" {what}; leave the row out, or save it with text')  # noqa: TRY004
        texts.append(value)
    names = {key for keys in _TURN.values() for key in keys}
    odd = [
        key
        for key, value in message.items()
        if key not in names and value is not None and (value != _LEARNED[key] if key in _LEARNED else value)
    ]
    if odd:
        raise ValueError(
            f"message {number} has {', '.join(odd)}, which kdtool does not follow: leave such rows out, or "
            "remove it from them"
        )
    role = texts[0].lower()
    return _ROLES.get(role, role), texts[1]


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
