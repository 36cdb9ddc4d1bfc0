"""Have a subject continue the beginnings of passages, once; a resumed run asks for missing ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import kdtool
from kdtool_asking import Answer, collect_answers, fit_prompt

if TYPE_CHECKING:
    from kdtool_overlap._passages import Passage

__all__ = ["continuations_of"]


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
