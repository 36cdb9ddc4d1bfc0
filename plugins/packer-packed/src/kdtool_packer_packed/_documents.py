"""An example's tokens, and which of them are learned. Called by the packer, once an example.

Parts that are learned and parts that are not are encoded on their own, so that the border between them is a border
between tokens, as it is when a prompt alone is given to the student later.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import kdtool

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
    """Tokens and whether each is learned; empty where there is no text."""

    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)


def document_of(
    example: kdtool.Example,
    tokenizer: kdtool.Tokenizer,
    fim: FillInTheMiddle | None,
    conversations: Literal["template", "plain"],
) -> Document:
    """Encode an example. It ends with the end-of-text token; in a conversation each assistant's turn has an end.

    Raises:
        UsageError: the tokenizer's template does not suit a conversation.
    """
    body = example.body
    if isinstance(body, kdtool.Text) and fim is not None:
        ids = _with_the_middle_last(example.id, body.text, tokenizer, fim)
        if ids is not None:
            return Document(ids, [True] * len(ids))
    if isinstance(body, kdtool.Messages) and conversations == "template":
        encoded = _by_template(example.id, body, tokenizer)
        if encoded is not None:
            return Document(*encoded)
    document = Document()
    for part, learned in _parts(body):
        ids = [tokenizer.end_of_text] if part is None else tokenizer.encode(part)
        document.ids += ids
        document.labelled += [learned] * len(ids)
    return document


def _with_the_middle_last(
    identifier: str, text: str, tokenizer: kdtool.Tokenizer, fim: FillInTheMiddle
) -> list[int] | None:
    """Return a text's ids where it is its turn to be cut and holds no mark itself; cuts lie between any two characters."""
    chance = random.Random(hashlib.sha256(f"fim {fim.seed} {identifier}".encode()).digest())
    chosen, suffix_first = chance.random() < fim.rate, chance.random() < fim.spm_rate
    if not chosen or not text:
        return None
    first, second = sorted(int(chance.random() * (len(text) + 1)) for _ in range(2))
    return tokenizer.encode_infilling(text[:first], text[first:second], text[second:], suffix_first)


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


def _parts(body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> Iterator[tuple[str | None, bool]]:
    """Yield (text, learned); None stands for the end-of-text token."""
    if isinstance(body, kdtool.Text):
        if body.text:
            yield body.text, True
            yield None, True
    elif isinstance(body, kdtool.Completion):
        yield body.prompt, False
        yield body.completion, True
        yield None, True
    else:
        for role, content in body.turns:
            yield f"### {role}\n", False
            if role == "assistant":
                yield content, True
                yield None, True
            else:
                yield f"{content}\n\n", False
