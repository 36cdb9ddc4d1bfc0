"""What a subject makes of the beginnings of passages. Asked once; a resumed run asks for those that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import answered

if TYPE_CHECKING:
    from kdtool_overlap._passages import Passage

__all__ = ["continuations_of"]


def continuations_of(run: kdtool.RunInfo, subject: kdtool.Subject, asked: Sequence[Passage]) -> dict[str, str] | None:
    """Return how a subject continues each passage, greedily, by the passage's id.

    None, and a line for the user, where nobody opens it, or it continues no text.
    """
    by_id = {one.id: one for one in asked}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
        return _request(by_id[name], runtime)

    answers = answered(run, subject, list(by_id), request, evaluator="memorisation")
    return None if answers is None else {one.id: one.text for one in answers}


def _request(passage: Passage, runtime: kdtool.Runtime) -> kdtool.Request:
    """Ask for as many tokens as the text's own continuation has for this subject.

    One more, since what stands at the seam may be divided otherwise. A tokenizer that nobody knows gives a byte a token.
    """
    prefix, continuation = passage.prefix, passage.continuation
    if runtime.model is None:
        return kdtool.Request(passage.id, prefix, len(continuation.encode("utf-8")))
    encode = runtime.model.tokenizer.encode
    return kdtool.Request(passage.id, prefix, len(encode(prefix + continuation)) - len(encode(prefix)) + 1)
