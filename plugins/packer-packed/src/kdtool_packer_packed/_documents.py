"""An example's tokens, and which of them are learned. Called by the packer, once an example.

Parts that are learned and parts that are not are encoded on their own, so that the border between them is a border
between tokens, as it is when a prompt alone is given to the student later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import kdtool

__all__ = ["Document", "document_of"]


@dataclass
class Document:
    """Tokens and whether each is learned; empty where there is no text."""

    ids: list[int] = field(default_factory=list)
    labelled: list[bool] = field(default_factory=list)


def document_of(example: kdtool.Example, tokenizer: kdtool.Tokenizer) -> Document:
    """Encode an example. It ends with the end-of-text token; in a conversation each assistant's turn does."""
    document = Document()
    for part, learned in _parts(example.body):
        ids = [tokenizer.end_of_text] if part is None else tokenizer.encode(part)
        document.ids += ids
        document.labelled += [learned] * len(ids)
    return document


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
