"""A teacher that is asked for text to learn from: each answer is kept; one that refuses everything is asked no further."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool

from kdtool_measuring._journal import Journal, journal

__all__ = ["ask_teacher", "kept_answers", "mending"]

_FIRST = 16
"""Where a teacher refuses all of so many first requests, others are not worth asking."""


@contextmanager
def kept_answers(run: kdtool.RunInfo, file: Path, *, again: bool) -> Iterator[Journal[kdtool.TextAnswer]]:
    """Open the journal of a teacher's answers; `again` takes refusals out, to be asked for once more.

    A run does that when it first opens the file: a server that refused before may have more room now.
    """
    outdated = (lambda answer: answer.finish == "refused") if again else None
    with journal(file, kdtool.TextAnswer, run.say, outdated=outdated) as kept:
        yield kept


def ask_teacher(
    run: kdtool.RunInfo,
    teacher: str,
    requests: Iterable[kdtool.Request],
    kept: Journal[kdtool.TextAnswer],
    *,
    progress: Callable[[], None],
    replaced: bool = False,
) -> None:
    """Ask a teacher, and keep each answer. How many requests it refused is said, with the first reason that it gave.

    Args:
        run: the run, which reaches the teacher.
        teacher: its name in the recipe.
        requests: what is not kept yet.
        kept: where answers go.
        progress: called behind each answer.
        replaced: somebody else answers what this teacher refuses, so that it is asked everything whatever it says.

    Raises:
        UsageError: nothing is kept, and each of the first requests is refused for a reason that is not the model's.
    """
    if kept:
        run.say(f"{len(kept):,} answers of {teacher} are there already and are not asked for again")
    hopeful = bool(kept) or replaced
    first: list[str] = []
    reasons: dict[str, str] = {}
    for answer in run.component(teacher, kdtool.Teacher).kdtool_answer(_noted(requests, first)):
        kept.add(answer)
        progress()
        if answer.reason:
            reasons[answer.id] = answer.reason
        if not hopeful and len(first) == _FIRST and reasons.keys() >= set(first):
            reason = reasons[first[0]]
            raise kdtool.UsageError(
                f"{teacher} refuses each of the first {_FIRST} requests, so no more are asked ({reason}); {mending(reason)}"
            )
    if reasons:
        run.say(f"{teacher} refused {len(reasons):,} requests, the first with: {next(iter(reasons.values()))}")


def mending(reason: str) -> str:
    """Say what to do where a teacher refuses, given its reason, "" where it told none."""
    if reason:
        return (
            "change what it objects to, at its server or in the recipe, and run again; where it is about length, a prompt "
            "and max_tokens together are to fit its context: lower max_tokens, or shorten the prompts"
        )
    return "shorten the prompts where they leave no room in its context, or ask another teacher"


def _noted(requests: Iterable[kdtool.Request], first: list[str]) -> Iterator[kdtool.Request]:
    """Yield requests, and note the ids of the first ones: answers come in another order, refusals before others."""
    for request in requests:
        if len(first) < _FIRST:
            first.append(request.id)
        yield request
