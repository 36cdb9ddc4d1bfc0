"""The text before a prompt that the teacher reads: the error of the student's program, and a program that passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import kdtool
from kdtool_programs import Verdict

from kdtool_teacher_initial_student._attempts import Attempt

__all__ = ["contexts_of", "with_contexts"]


def contexts_of(attempts: Sequence[Attempt], verdicts: Sequence[Verdict | None]) -> list[str]:
    """Return the text that comes before each attempt's prompt: "" if it passed, or has no tests."""
    passed: Mapping[str, str] = {
        attempt.prompt: attempt.written
        for attempt, verdict in zip(attempts, verdicts, strict=True)
        if verdict is not None and verdict.has_passed
    }
    return [
        "" if verdict is None or verdict.has_passed else _context(verdict, passed.get(attempt.prompt))
        for attempt, verdict in zip(attempts, verdicts, strict=True)
    ]


def _context(verdict: Verdict, solution: str | None) -> str:
    parts = ["An earlier attempt failed: " + " ".join((verdict.reason or verdict.status).split())]
    if solution is not None:
        parts += ["This one is correct:", *solution.strip("\n").splitlines()]
    return "".join(f"# {part}\n" for part in parts) + "\n"


def with_contexts(
    attempts: Sequence[Attempt], contexts: Sequence[str], tokenizer: kdtool.Tokenizer, most: int, limit: int
) -> list[kdtool.Row]:
    """Return a row for each attempt with the same labelled tokens, its context after the tokens that begin a document.

    A context has at most `most` tokens, and no more than fit into the model's `limit` (0: none) with the attempt; a longer
    one loses its beginning. Rows are padded to one length.
    """
    start = len(tokenizer.document_start)
    room = [min(most, limit - len(attempt.ids)) if limit else most for attempt in attempts]
    added = [tokenizer.encode(text)[-most:] if most > 0 else [] for text, most in zip(contexts, room, strict=True)]
    length = max(len(attempt.ids) + len(context) for attempt, context in zip(attempts, added, strict=True))
    rows = []
    for number, (attempt, context) in enumerate(zip(attempts, added, strict=True)):
        ids = [*attempt.ids[:start], *context, *attempt.ids[start:]]
        learned = [at - len(context) in attempt.learned for at in range(length)]
        padding = length - len(ids)
        document = [0] * len(ids) + [-1] * padding
        rows.append(kdtool.Row(str(number), ids + [tokenizer.end_of_text] * padding, learned, document))
    return rows
