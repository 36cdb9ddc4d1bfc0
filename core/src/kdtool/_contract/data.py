"""Text, rows of tokens, and batches: the data between corpora, packers, teachers and trainers.

Text is free of any tokenizer. Rows follow one tokenizer. Only a `Batch` holds tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

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

    @property
    def targets(self) -> tuple[bool, ...]:
        """True for each turn that is learned. Since 0.1."""
        return tuple(role == "assistant" for role, _ in self.turns)

    @classmethod
    def of(cls, messages: object, system: object = None, tools: object = None) -> Messages:
        """Return the conversation in a record of OpenAI's form, or of ShareGPT's (`from` and `value`).

        Nothing is left out: a `system` text becomes the first turn, tools and what else a turn has make it a
        `DetailedMessages`, and other keys are refused by name. Since 0.1.

        Args:
            messages: the list of messages.
            system: a text before them, unless they begin with one.
            tools: definitions of functions, as a list or as JSON in text.

        Raises:
            ValueError: something cannot be used; the message follows the name of the field or column.
        """
        if not isinstance(messages, list | tuple) or not messages:
            raise ValueError("must be a list of messages; JSON in text is read by json.loads first")
        parsed = [_turn(number, message) for number, message in enumerate(messages, 1)]
        if system and parsed[0][0] != ("system", system):
            if not isinstance(system, str) or parsed[0][0][0] == "system":
                raise ValueError(
                    "comes with a system besides that is not text, or not the first message's: keep one of them"
                )
            parsed.insert(0, (("system", system), {}))
        turns, details = zip(*parsed, strict=True)
        listed = tuple(_functions(tools, "comes with tools:"))
        return DetailedMessages(turns, details, listed) if listed or any(details) else Messages(turns)


@dataclass(frozen=True)
class DetailedMessages(Messages):
    """A conversation that has more than roles and contents, as plain data in OpenAI's form. Only chat templates write all.

    `details` are the further keys of each turn's message: `tool_calls` with arguments as objects, `reasoning_content`, the
    `name` and `tool_call_id` of a tool's result, and a `weight` of 0 if the turn is not learned. Since 0.1.
    """

    details: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def targets(self) -> tuple[bool, ...]:
        """True for each turn that is learned. Since 0.1."""
        return tuple(
            role == "assistant" and "weight" not in detail
            for (role, _), detail in zip(self.turns, self.details, strict=True)
        )


_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "observation": "tool"}
_TURN = {"role": ("role", "from"), "content": ("content", "value")}
_TEXTS = {
    "assistant": dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "reasoning_content"),
    "tool": {"name": "name", "tool_call_id": "tool_call_id"},
}
"""Further keys with text, by role, and their names in `DetailedMessages.details`."""


def _turn(number: int, message: object) -> tuple[tuple[str, str], dict[str, Any]]:
    if not isinstance(message, Mapping):
        raise ValueError(f'message {number} must be an object with the texts "role" and "content"')  # noqa: TRY004
    called = next((message[key] for key in _TURN["content"] if message.get(key)), None)
    if "function_call" in (message.get("role"), message.get("from")) and isinstance(called, str):  # ShareGPT's
        calls = called if called.lstrip().startswith("[") else f"[{called}]"
        message = {**message, "role": "assistant", "content": "", "tool_calls": calls}
    texts = []
    for name, keys in _TURN.items():
        value = next((message[key] for key in keys if message.get(key) is not None), None)
        value = "" if value is None and name == "content" and message.get("tool_calls") else value
        if not isinstance(value, str):
            what = "is missing" if value is None else f"must be text, not {type(value).__name__}"
            raise ValueError(f'message {number}: "{name}" {what}; leave the row out, or save it with text')  # noqa: TRY004
        texts.append(value)
    role = _ROLES.get(texts[0].lower(), texts[0].lower())
    known, odd, detail = _TEXTS.get(role, {}), list[str](), dict[str, Any]()
    for key, value in message.items():
        if key in {"weight", "train"} and value in (0, 1) and (role == "assistant" or not value):
            detail |= {} if value or role != "assistant" else {"weight": 0}
        elif key == "tool_calls" and role == "assistant" and value:
            detail[key] = _functions(value, f"message {number}: tool_calls:")
        elif key in known and value and isinstance(value, str):
            detail[known[key]] = value
        elif value not in (None, "", [], {}, False) and key not in (*_TURN["role"], *_TURN["content"]):
            odd.append(key)
    if odd:
        raise ValueError(
            f"message {number} has {', '.join(odd)}, which kdtool does not follow in a turn of {role}: leave such rows out, "
            "or remove it from them"
        )
    return (role, texts[1]), detail


def _functions(entries: Any, location: str) -> list[dict[str, Any]]:
    """Return definitions or calls of functions as OpenAI nests them; JSON in text is read."""
    try:
        entries = json.loads(entries) if isinstance(entries, str) and entries else entries
        nested = [
            dict(entry) if "function" in entry else {"type": "function", "function": entry} for entry in entries or ()
        ]
        for entry in nested:
            function = entry["function"] = {**entry["function"]}
            if isinstance(function.get("arguments"), str):
                function["arguments"] = json.loads(function["arguments"] or "{}")
            if not isinstance(function["name"], str) or not isinstance(function.get("arguments", {}), Mapping):
                raise TypeError
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f'{location} expected OpenAI\'s form, a list of {{"type": "function", "function": {{"name": …}}}} with '
            "arguments as an object or the JSON of one; leave the row out, or save it so"
        ) from None
    return nested


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
    """Return the parts of a body's text in order: the text, prompt and completion, or each turn's content. Since 0.1.

    After the contents of a conversation come the texts among its details and tools.
    """
    if isinstance(body, Text):
        return (body.text,)
    if isinstance(body, Completion):
        return body.prompt, body.completion
    details = [body.details, body.tools] if isinstance(body, DetailedMessages) else []
    return (*(content for _, content in body.turns), *_texts(details))


def _texts(data: object) -> Iterator[str]:
    """Yield the names and values in plain data as texts."""
    if isinstance(data, Mapping):
        data = [each for pair in data.items() for each in pair]
    if isinstance(data, list | tuple):
        for each in data:
            yield from _texts(each)
    else:
        yield data if isinstance(data, str) else json.dumps(data)
