"""Ask a teacher for training text: store each answer, and stop early if it refuses everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import kdtool

from kdtool_asking._journal import Journal, journal, sort_journal

__all__ = ["ask_teacher", "kept_answers", "refusal_remedy"]

_FIRST = 16
"""Number of requests after which to stop asking if the teacher refused all of them."""


@contextmanager
def kept_answers(run: kdtool.RunInfo, file: Path, *, again: bool) -> Iterator[Journal[kdtool.TextAnswer]]:
    """Open the journal of a teacher's answers; `again` removes refusals, so that they are retried.

    When it is closed its lines are in the order of ids, since a resumed run gets stored answers in another order.
    Pass it when a run first opens the file: a server that refused before may have more room now.
    """
    outdated = (lambda answer: answer.finish == "refused") if again else None
    try:
        with journal(file, kdtool.TextAnswer, run.say, outdated=outdated) as kept:
            yield kept
    finally:
        with suppress(OSError):  # the answers are kept in either order
            sort_journal(file, kdtool.TextAnswer)


def ask_teacher(
    run: kdtool.RunInfo,
    teacher: str,
    requests: Iterable[kdtool.Request],
    kept: Journal[kdtool.TextAnswer],
    *,
    progress: Callable[[], None],
    replaced: bool = False,
) -> None:
    """Ask a teacher and store each answer; a message counts refusals, with the first reason.

    Args:
        run: the run, which provides the teacher.
        teacher: its name in the recipe.
        requests: those without a stored answer.
        kept: journal of the answers.
        progress: called after each answer.
        replaced: another teacher answers what this one refuses, so never stop early.

    Raises:
        UsageError: the journal was empty, and a server refused each of the first requests with a reason.
    """
    if kept:
        run.say(f"{len(kept):,} answers of {teacher} are stored already and are not requested again")
    hopeful = bool(kept) or replaced
    first: list[str] = []
    reasons: dict[str, str] = {}
    for answer in run.component(teacher, kdtool.Teacher).kdtool_answer(_record_first(requests, first)):
        kept.add(answer)
        progress()
        if answer.reason:
            reasons[answer.id] = answer.reason
        if not hopeful and len(first) == _FIRST and reasons.keys() >= set(first):
            reason = reasons[first[0]]
            raise kdtool.UsageError(
                f"{teacher} refuses each of the first {_FIRST} requests, so the others are not sent ({reason}); "
                f"{refusal_remedy(reason)}"
            )
    if reasons:
        run.say(f"{teacher} refused {len(reasons):,} requests, the first with: {next(iter(reasons.values()))}")


def refusal_remedy(reason: str) -> str:
    """Return what to do when a teacher refuses; `reason` is its message, "" for none."""
    if reason:
        return (
            "fix that at its server or in the recipe, and run again; if it is about length, lower max_tokens or shorten the "
            "prompts, since both together must fit its context"
        )
    return "shorten the prompts if they leave no room in its context, or ask another teacher"


def _record_first(requests: Iterable[kdtool.Request], first: list[str]) -> Iterator[kdtool.Request]:
    """Yield requests, appending the ids of the first ones to `first`: answers arrive in another order, refusals first."""
    for request in requests:
        if len(first) < _FIRST:
            first.append(request.id)
        yield request
