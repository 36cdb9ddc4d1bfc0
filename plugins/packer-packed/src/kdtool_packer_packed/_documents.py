"""An example's tokens, and which of them are learned. Called by the packer, once an example.

Parts that are learned and parts that are not are encoded on their own, so that the border between them is a border
between tokens, as it is when a prompt alone is given to the student later.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import kdtool

from kdtool_packer_packed._annotations import Part, carried, cut_in_parts

__all__ = ["Document", "FillInTheMiddle", "document_of"]


class FillInTheMiddle(kdtool.Config):
    """Some plain texts are cut in three, and the middle comes last (arXiv 2207.14255)."""

    rate: float = kdtool.Field(default=0.5, ge=0, le=1)
    """Share of the texts."""
    spm_rate: float = kdtool.Field(default=0.5, ge=0, le=1)
    """Share of those in which the suffix comes before the prefix; in the others the prefix comes first."""
    seed: int = kdtool.Field(default=0, ge=0)
    """Decides with an example's id whether and where it is cut."""


@dataclass
class Document:
    """Tokens, whether each is learned, and what annotators say of it; empty where there is no text.

    The first `start` tokens begin the document and stand for no text; they are never learned.
    `lost` says that some of what annotators say did not come to the tokens: the tokenizer writes other bytes than the text
    has.
    """

    names: Sequence[str] = ()
    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)
    columns: dict[str, list[int]] = field(default_factory=dict)
    lost: bool = False
    start: int = 0

    def begin(self, tokenizer: kdtool.Tokenizer) -> Document:
        """Put the tokenizer's `document_start` before what was added, where that has none yet; return the document."""
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
        """Add tokens, with what is said of the parts of text among them, and return the document."""
        found = carried(self._pieces(ids, tokenizer), parts) if self.names and parts else {}
        self.lost = self.lost or found is None
        for name in self.names:
            self.columns.setdefault(name, []).extend((found or {}).get(name) or [0] * len(ids))
        self.ids += ids
        self.labelled += labelled
        return self

    def _pieces(self, ids: Sequence[int], tokenizer: kdtool.Tokenizer) -> Sequence[bytes]:
        """Return the bytes of tokens that are added: only where a text begins may a tokenizer leave out a space."""
        return tokenizer.pieces([*self.ids, *ids])[len(self.ids) :]


def document_of(
    example: kdtool.Example,
    tokenizer: kdtool.Tokenizer,
    fim: FillInTheMiddle | None,
    conversations: Literal["template", "plain"],
) -> Document:
    """Encode an example: it begins as the tokenizer begins a document, and ends with the end-of-text token.

    In a conversation each assistant's turn has an end.

    Raises:
        UsageError: the tokenizer's template does not suit a conversation.
    """
    return _encoded(example, tokenizer, fim, conversations).begin(tokenizer)


def _encoded(
    example: kdtool.Example,
    tokenizer: kdtool.Tokenizer,
    fim: FillInTheMiddle | None,
    conversations: Literal["template", "plain"],
) -> Document:
    body, document = example.body, Document(tuple(example.annotations))
    parts = cut_in_parts(kdtool.parts_of(body), example.annotations)
    if isinstance(body, kdtool.Text) and fim is not None:
        found = _with_the_middle_last(example.id, parts[0], tokenizer, fim)
        if found is not None:
            ids, parts = found
            return document.add(ids, [True] * len(ids), tokenizer, parts)
    if isinstance(body, kdtool.Messages) and conversations == "template":
        encoded = _by_template(example.id, body, tokenizer)
        if encoded is not None:
            return _with_what_is_said_of_answers(document, *encoded, tokenizer, body, parts)
    before = ""
    for text, learned, part in _parts(body, parts):
        ids = [tokenizer.end_of_text] if text is None else tokenizer.encode_behind(before, text)
        document.add(ids, [learned] * len(ids), tokenizer, [part] if part else ())
        before = text or before
    return document


def _with_the_middle_last(
    identifier: str, part: Part, tokenizer: kdtool.Tokenizer, fim: FillInTheMiddle
) -> tuple[list[int], list[Part]] | None:
    """Return a text's ids, and its parts in their order, where it is its turn to be cut and holds no mark itself.

    Cuts lie between any two characters.
    """
    text = part.text
    chance = random.Random(hashlib.sha256(f"fim {fim.seed} {identifier}".encode()).digest())
    chosen, suffix_first = chance.random() < fim.rate, chance.random() < fim.spm_rate
    if not chosen or not text:
        return None
    first, second = sorted(int(chance.random() * (len(text) + 1)) for _ in range(2))
    ids = tokenizer.encode_infilling(text[:first], text[first:second], text[second:], suffix_first)
    before, middle, after = part[:first], part[first:second], part[second:]
    return None if ids is None else (ids, [after, before, middle] if suffix_first else [before, after, middle])


def _by_template(
    identifier: str, body: kdtool.Messages, tokenizer: kdtool.Tokenizer
) -> tuple[list[int], list[bool]] | None:
    try:
        return tokenizer.encode_chat(body.turns)
    except kdtool.UsageError as error:
        raise kdtool.UsageError(
            f"example {identifier!r}: {error}; change the example, or set `conversations: plain` in the recipe's `rows`, "
            "which writes conversations without the template"
        ) from error


def _with_what_is_said_of_answers(
    document: Document,
    ids: list[int],
    labelled: list[bool],
    tokenizer: kdtool.Tokenizer,
    body: kdtool.Messages,
    parts: Sequence[Part],
) -> Document:
    """Add a conversation as a template writes it: answers are looked for among what is learned, and the rest is 0.

    A template may strip an answer.
    """
    answers = [_stripped(part) for part, (role, _) in zip(parts, body.turns, strict=True) if role == "assistant"]
    asked = Document(document.names)
    asked.add([token for token, learned in zip(ids, labelled, strict=True) if learned], (), tokenizer, answers)
    document.add(ids, labelled, tokenizer)
    document.lost = asked.lost
    for name, values in asked.columns.items():
        said = iter(values)
        document.columns[name] = [next(said) if learned else 0 for learned in labelled]
    return document


def _stripped(part: Part) -> Part:
    start = len(part.text) - len(part.text.lstrip())
    return part[start : start + len(part.text.strip())]


def _parts(
    body: kdtool.Text | kdtool.Completion | kdtool.Messages, parts: Sequence[Part]
) -> Iterator[tuple[str | None, bool, Part | None]]:
    """Yield (text, learned, the part of the body in it); None for a text stands for the end-of-text token."""
    if isinstance(body, kdtool.Text):
        if body.text:
            yield body.text, True, parts[0]
            yield None, True, None
    elif isinstance(body, kdtool.Completion):
        yield body.prompt, False, parts[0]
        yield body.completion, True, parts[1]
        yield None, True, None
    else:
        for (role, content), part in zip(body.turns, parts, strict=True):
            yield f"### {role}\n", False, None
            if role == "assistant":
                yield content, True, part
                yield None, True, None
            else:
                yield f"{content}\n\n", False, part
