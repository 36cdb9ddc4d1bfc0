"""Documents of tokens: examples encoded, with the tokens to train on marked and annotations mapped to tokens.

Parts with and without labels are encoded separately, so that the boundary between them is a token boundary, as it is
when the student later gets only a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Literal

import kdtool


@dataclass
class Document:
    """Tokens, whether each is labelled, and their annotations; empty if there is no text.

    The first `start` tokens are the tokenizer's document start and never labelled. `lost` is true if annotations could not
    be mapped to tokens, because the tokens' bytes differ from the text's.
    """

    names: Sequence[str] = ()
    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)
    columns: dict[str, list[int]] = field(default_factory=dict)
    lost: bool = False
    start: int = 0

    def begin(self, tokenizer: kdtool.Tokenizer) -> Document:
        """Prepend the tokenizer's `document_start`, unless it is there already; return the document."""
        if self.ids:
            missing = tokenizer.missing_start(self.ids)
            self.start = len(tokenizer.document_start)
            self.ids = [*missing, *self.ids]
            self.labelled = [*[False] * self.start, *self.labelled[self.start - len(missing) :]]
            self.columns = {name: [*[0] * len(missing), *values] for name, values in self.columns.items()}
        return self

    def add(
        self, ids: Sequence[int], labelled: Sequence[bool], tokenizer: kdtool.Tokenizer, parts: Sequence[Part] = ()
    ) -> Document:
        """Append tokens, with the annotations of the parts of text among them; return the document."""
        annotations = annotate_tokens(self._pieces(ids, tokenizer), parts) if self.names and parts else {}
        self.lost = self.lost or annotations is None
        for name in self.names:
            self.columns.setdefault(name, []).extend((annotations or {}).get(name) or [0] * len(ids))
        self.ids += ids
        self.labelled += labelled
        return self

    def select(self, indices: Sequence[int]) -> Document:
        """Return the tokens at these indices, with their labels and annotations."""
        columns = {name: [values[i] for i in indices] for name, values in self.columns.items()}
        return replace(
            self, ids=[self.ids[i] for i in indices], labelled=[self.labelled[i] for i in indices], columns=columns
        )

    def join(self, other: Document) -> Document:
        """Return this document's tokens, then the other's, which has the same annotations."""
        columns = {name: values + other.columns[name] for name, values in self.columns.items()}
        return replace(self, ids=self.ids + other.ids, labelled=self.labelled + other.labelled, columns=columns)

    def _pieces(self, ids: Sequence[int], tokenizer: kdtool.Tokenizer) -> Sequence[bytes]:
        """Return the bytes of appended tokens, decoded after the others: tokenizers may drop a space at the start."""
        return tokenizer.pieces([*self.ids, *ids])[len(self.ids) :]


def document_of(
    example: kdtool.Example,
    tokenizer: kdtool.Tokenizer,
    conversations: Literal["template", "plain"],
    control_tokens: bool = False,
) -> Document:
    """Encode an example, with the tokenizer's document start and the end-of-text token.

    In a conversation, each assistant's turn ends with an end token. With `control_tokens`, those written in a text or a
    completion count, and one that ends it is not doubled.

    Raises:
        UsageError: the tokenizer's chat template rejects a conversation.
    """
    return _encode(example, tokenizer, conversations, control_tokens).begin(tokenizer)


def is_unanswered(body: kdtool.Text | kdtool.Completion | kdtool.Messages, *, at_the_end: bool) -> bool:
    """Return whether a body is a prompt without an answer; a conversation only if it has none, or none `at_the_end`."""
    if isinstance(body, kdtool.Messages):
        return "assistant" not in [role for role, _ in (body.turns[-1:] if at_the_end else body.turns)]
    return isinstance(body, kdtool.Completion) and not body.completion


def prompt_of(
    example: kdtool.Example,
    tokenizer: kdtool.Tokenizer,
    conversations: Literal["template", "plain"],
    control_tokens: bool = False,
) -> Document:
    """Encode a prompt without an answer up to where the answer begins, without labels; empty if there is no text.

    Raises:
        UsageError: the tokenizer's chat template rejects a conversation.
    """
    body, ids = example.body, list[int]()
    if isinstance(body, kdtool.Completion):
        ids = _ids(tokenizer, "", body.prompt, control_tokens)
    elif isinstance(body, kdtool.Messages) and conversations == "template" and tokenizer.chat_fingerprint:
        with _naming(example):
            ids = tokenizer.encode_prompt(body.turns, "", *_details_of(body))
    elif isinstance(body, kdtool.Messages):
        _require_plain(example)
        asked = kdtool.Messages((*body.turns, ("assistant", "")))
        whole = _encode(kdtool.Example(example.id, asked), tokenizer, "plain")
        ids = whole.ids[:-1]  # without the end of the empty answer
    return Document(tuple(example.annotations)).add(ids, [False] * len(ids), tokenizer).begin(tokenizer)


def _encode(
    example: kdtool.Example,
    tokenizer: kdtool.Tokenizer,
    conversations: Literal["template", "plain"],
    control_tokens: bool = False,
) -> Document:
    body, document = example.body, Document(tuple(example.annotations))
    parts = cut_in_parts(kdtool.parts_of(body), example.annotations)
    if isinstance(body, kdtool.Messages) and conversations == "template":
        with _naming(example):
            encoded = tokenizer.encode_chat(body.turns, *_details_of(body))
        if encoded is not None:
            return _add_annotated_answers(document, *encoded, tokenizer, body, parts)
    _require_plain(example)
    before = ""
    for text, learned, part in _parts(body, parts):
        if text is None:
            ids = [] if document.ids[-1:] == [tokenizer.end_of_text] else [tokenizer.end_of_text]
        else:
            ids = _ids(tokenizer, before, text, control_tokens and not isinstance(body, kdtool.Messages))
        document.add(ids, [learned] * len(ids), tokenizer, [part] if part else ())
        before = text or before
    return document


def _ids(tokenizer: kdtool.Tokenizer, before: str, text: str, control_tokens: bool) -> list[int]:
    return tokenizer.encode_template(text, before) if control_tokens else tokenizer.encode_behind(before, text)


def _details_of(body: kdtool.Messages) -> tuple[kdtool.DetailedMessages, ...]:
    return (body,) if isinstance(body, kdtool.DetailedMessages) else ()


def _has_more(body: object) -> bool:
    return isinstance(body, kdtool.DetailedMessages) and bool(
        body.tools or any(each.keys() - {"weight"} for each in body.details)
    )


def _require_plain(example: kdtool.Example) -> None:
    if _has_more(example.body):
        raise kdtool.UsageError(
            f"example {example.id!r}: only a chat template can write tools, tool calls and reasoning; give a model that has "
            "one, without `rows.conversations: plain`, or leave the example out"
        )


@contextmanager
def _naming(example: kdtool.Example) -> Iterator[None]:
    """Name the example whose conversation the template rejects, and the remedy."""
    try:
        yield
    except kdtool.UsageError as error:
        plain = ", or set `rows.conversations: plain`, which writes conversations without the template"
        remedy = "change the example, or leave it out" if _has_more(example.body) else f"change the example{plain}"
        raise kdtool.UsageError(f"example {example.id!r}: {error}; {remedy}") from error


def _add_annotated_answers(
    document: Document,
    ids: list[int],
    labelled: list[bool],
    tokenizer: kdtool.Tokenizer,
    body: kdtool.Messages,
    parts: Sequence[Part],
) -> Document:
    """Append a rendered conversation, mapping annotations of answers to the labelled tokens; the others get 0.

    Answers are stripped, since a template may strip them.
    """
    answers = [_strip(part) for part, learned in zip(parts, body.targets, strict=False) if learned]
    asked = Document(document.names)
    asked.add([token for token, learned in zip(ids, labelled, strict=True) if learned], (), tokenizer, answers)
    document.add(ids, labelled, tokenizer)
    document.lost = asked.lost
    for name, values in asked.columns.items():
        said = iter(values)
        document.columns[name] = [next(said) if learned else 0 for learned in labelled]
    return document


def _strip(part: Part) -> Part:
    start = len(part.text) - len(part.text.lstrip())
    return part[start : start + len(part.text.strip())]


def _parts(
    body: kdtool.Text | kdtool.Completion | kdtool.Messages, parts: Sequence[Part]
) -> Iterator[tuple[str | None, bool, Part | None]]:
    """Yield (text, whether it is labelled, the part of the body in it); text None stands for the end-of-text token."""
    if isinstance(body, kdtool.Text):
        if body.text:
            yield body.text, True, parts[0]
            yield None, True, None
    elif isinstance(body, kdtool.Completion):
        yield body.prompt, False, parts[0]
        yield body.completion, True, parts[1]
        yield None, True, None
    else:
        for (role, content), learned, part in zip(body.turns, body.targets, parts, strict=False):
            yield f"### {role}\n", False, None
            if role == "assistant":
                yield content, learned, part
                yield None, learned, None
            else:
                yield f"{content}\n\n", False, part


_SPACE = b" \t\n\r\v\f"


@dataclass(frozen=True)
class Part:
    """A span of text, and each column's number for each of its characters."""

    text: str
    columns: Mapping[str, Sequence[int]]

    def __getitem__(self, where: slice) -> Part:
        return Part(self.text[where], {name: values[where] for name, values in self.columns.items()})


def cut_in_parts(texts: Iterable[str], annotations: Mapping[str, Sequence[int]]) -> list[Part]:
    """Return the texts with their annotations, given those of the concatenated texts."""
    parts = []
    start = 0
    for text in texts:
        end = start + len(text)
        parts.append(Part(text, {name: values[start:end] for name, values in annotations.items()}))
        start = end
    return parts


def annotate_tokens(pieces: Sequence[bytes], parts: Sequence[Part]) -> Mapping[str, Sequence[int]] | None:
    """Return each column's number for each token, or None if a part's text does not occur in the tokens' bytes.

    A token gets the number of the character of its first byte that is not ASCII white space; an all-white token that of its
    first byte. The number is 0 for tokens without bytes, and for bytes outside all parts, such as text that a tokenizer or
    a template adds.

    Args:
        pieces: the bytes of each token.
        parts: the texts to find in them, in this order, without overlap; all have the same columns.
    """
    content = b"".join(pieces)
    spread = {name: [0] * len(content) for name in (parts[0].columns if parts else ())}
    cursor = 0
    for part in parts:
        cursor = content.find(part.text.encode(), cursor)
        if cursor < 0:
            return None
        end = cursor + len(part.text.encode())
        for name, numbers in part.columns.items():
            spread[name][cursor:end] = chain.from_iterable(map(repeat, numbers, map(_size, part.text)))
        cursor = end
    tokens: dict[str, list[int]] = {name: [] for name in spread}
    start = 0
    for piece in pieces:
        black = piece.lstrip(_SPACE)
        first = start + (len(piece) - len(black) if black else 0)
        for name, numbers in spread.items():
            tokens[name].append(numbers[first] if piece else 0)
        start += len(piece)
    return tokens


def _size(character: str) -> int:
    return len(character.encode())
