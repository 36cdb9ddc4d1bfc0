"""What a subject makes of the beginnings of passages. Asked once; a resumed run asks for those that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import Answer, answered, fitted

if TYPE_CHECKING:
    from kdtool_overlap._passages import Passage

__all__ = ["continuations_of"]


def continuations_of(run: kdtool.RunInfo, subject: kdtool.Subject, asked: Sequence[Passage]) -> list[Answer] | None:
    """Return how a subject continues each passage, greedily, in their order.

    None, and a line for the user, where nobody opens it, or it continues no text. A passage that does not fit into its
    context is not asked: with fewer words before it, it would be an easier or a harder one.
    """
    by_id = {one.id: one for one in asked}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request | None:
        prefix, tokens = by_id[name].prefix, _tokens(by_id[name], runtime)
        return kdtool.Request(name, prefix, tokens) if fitted(prefix, runtime, tokens) == prefix else None

    return answered(run, subject, list(by_id), request, evaluator="memorisation")


def _tokens(passage: Passage, runtime: kdtool.Runtime) -> int:
    """Return as many tokens as the text's own continuation has for this subject.

    One more, since what stands at the seam may be divided otherwise. A tokenizer that nobody knows gives a byte a token.
    """
    prefix, continuation = passage.prefix, passage.continuation
    if runtime.model is None:
        return len(continuation.encode("utf-8"))
    encode = runtime.model.tokenizer.encode
    return len(encode(prefix + continuation)) - len(encode(prefix)) + 1
