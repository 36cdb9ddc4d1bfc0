"""Passages of the training text: a prefix to prompt a model with, its continuation, and how a subject continues it.

A subject is asked once; a resumed run asks for missing continuations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest

import kdtool
from kdtool_measuring import Answer, collect_answers, fit_prompt, text_of

from kdtool_evaluator_overlap._ngrams import spans_of

_CHARACTERS_A_WORD = 24
"""A passage with longer words on average is data rather than text, and would fill a model's context."""


@dataclass(frozen=True)
class Passage:
    """Adjacent `prefix` and `continuation` in a `document`; `id` is the document's with the index of the first word."""

    id: str
    document: str
    prefix: str
    continuation: str


def beginning(examples: Iterable[kdtool.Example], characters: int | None) -> Iterator[tuple[str, str]]:
    """Yield id and text of the examples, cut after `characters` in total; None yields all."""
    left, seen = characters, set[str]()
    for example in examples:
        if left is not None and left <= 0:
            return
        text = text_of(example.body)[:left]
        left = None if left is None else left - len(text)
        name = f"{example.id}#{len(seen)}" if example.id in seen else example.id  # corpora may have an id in common
        seen.add(name)
        yield name, text


def passages_of(documents: Iterable[tuple[str, str]], most: int, prefix: int, continuation: int) -> list[Passage]:
    """Select passages by the hashes of their ids: the same on every machine, spread evenly over all text.

    Passages of a document do not overlap.

    Args:
        documents: id and text of each.
        most: maximum number of passages.
        prefix: words in the prompt.
        continuation: words after it.
    """
    passages = (passage for document in documents for passage in _cut(*document, prefix, continuation))
    return nsmallest(most, passages, key=lambda passage: sha256(passage.id.encode("utf-8")).digest())


def _cut(document: str, text: str, prefix: int, continuation: int) -> Iterator[Passage]:
    spans, words = spans_of(text), prefix + continuation
    for first in range(0, len(spans) - words + 1, words):
        start, middle, end = spans[first][0], spans[first + prefix - 1][1], spans[first + words - 1][1]
        if end - start <= _CHARACTERS_A_WORD * words:
            yield Passage(f"{document} {first}", document, text[start:middle], text[middle:end])


def continuations_of(run: kdtool.RunInfo, subject: kdtool.Subject, asked: Sequence[Passage]) -> list[Answer] | None:
    """Return a subject's greedy continuations of the passages, in order.

    None, with a message to the user, if no component opens the subject or it cannot continue text. Passages that exceed its
    context are skipped: a shorter prefix would make them easier or harder.
    """
    by_id = {passage.id: passage for passage in asked}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request | None:
        prefix, tokens = by_id[name].prefix, _tokens(by_id[name], runtime)
        return kdtool.Request(name, prefix, tokens) if fit_prompt(prefix, runtime, tokens) == prefix else None

    return collect_answers(run, subject, list(by_id), request, evaluator="memorisation")


def _tokens(passage: Passage, runtime: kdtool.Runtime) -> int:
    """Return the number of tokens of the original continuation for this subject.

    Plus one, since the boundary may be tokenized differently. Assumes one byte per token if the tokenizer is unknown.
    """
    prefix, continuation = passage.prefix, passage.continuation
    if runtime.model is None:
        return len(continuation.encode("utf-8"))
    encode = runtime.model.tokenizer.encode
    return len(encode(prefix + continuation)) - len(encode(prefix)) + 1
