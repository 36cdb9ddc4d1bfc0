"""What a subject makes of the beginnings of passages. Asked once; a resumed run asks for those that are missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import cannot, journal, opened

if TYPE_CHECKING:
    from kdtool_overlap._passages import Passage

__all__ = ["continuations_of"]


def continuations_of(run: kdtool.RunInfo, subject: kdtool.Subject, asked: Sequence[Passage]) -> dict[str, str] | None:
    """Return how a subject continues each passage, greedily, by the passage's id.

    None, and a line for the user, where nobody opens it, or it continues no text.
    """
    by_id = {one.id: one for one in asked}
    with journal(run.folder / (re.sub(r"[^\w.-]", "_", f"memorisation.{subject.name}") + ".answers.jsonl")) as kept:
        missing = [one for name, one in by_id.items() if name not in kept.records]
        if missing:
            with opened(run, subject, "memorisation", _unfit) as runtime:
                if runtime is None:
                    return None
                for answer in runtime.answer([_request(one, runtime) for one in missing]):
                    kept.add({"id": answer.id, "text": answer.text})
                    run.hook.kdtool_progress(run, len(kept.records))
        return {name: kept.records[name]["text"] for name in by_id}


def _unfit(runtime: kdtool.Runtime) -> str:
    return "" if "continue" in runtime.abilities else cannot("continue")


def _request(passage: Passage, runtime: kdtool.Runtime) -> kdtool.Request:
    """Ask for as many tokens as the text's own continuation has for this subject.

    One more, since what stands at the seam may be divided otherwise. A tokenizer that nobody knows gives a byte a token.
    """
    prefix, continuation = passage.prefix, passage.continuation
    if runtime.model is None:
        return kdtool.Request(passage.id, prefix, len(continuation.encode("utf-8")))
    encode = runtime.model.tokenizer.encode
    return kdtool.Request(passage.id, prefix, len(encode(prefix + continuation)) - len(encode(prefix)) + 1)
