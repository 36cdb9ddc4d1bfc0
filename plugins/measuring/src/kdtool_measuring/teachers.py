"""Teachers that are asked for training text: stored answers, their price, and an account of them.

Asking stops early if a teacher refuses everything. The account is written with the text, for `kdtool_account`, and read by
every run with it.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import kdtool

from kdtool_measuring.journals import Journal, journal, sort_journal

_FIRST_REQUESTS = 16
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
    total: int,
    others: int = 0,
) -> None:
    """Ask a teacher and store each answer; a message counts refusals, with the first reason.

    Args:
        run: the run, which provides the teacher.
        teacher: its name in the recipe.
        requests: those without a stored answer.
        kept: journal of the answers.
        total: all requests of the stage, for its progress.
        others: those that other teachers have answered.

    Raises:
        UsageError: the journal was empty, and a server refused each of the first requests with a reason.
    """
    if kept:
        run.say(f"{kdtool.count_of(len(kept), 'answer')} of {teacher} reused: not requested again")
    hopeful = bool(kept)
    first: list[str] = []
    reasons: dict[str, str] = {}
    priced = priced_teacher(run, teacher)
    progress = AskingProgress(run, total, priced.spent if priced else None)
    for answer in run.component(teacher, kdtool.Teacher).kdtool_answer(_record_first(requests, first)):
        kept.add(answer)
        progress.show(others + len(kept))
        if answer.reason:
            reasons[answer.id] = answer.reason
        if not hopeful and len(first) == _FIRST_REQUESTS and reasons.keys() >= set(first):
            reason = reasons[first[0]]
            raise kdtool.UsageError(
                f"{teacher} refuses each of the first {_FIRST_REQUESTS} requests, so the others are not sent ({reason}); "
                f"{refusal_remedy(reason)}"
            )
    if reasons:
        refused = kdtool.count_of(len(reasons), "request")
        run.say(f"{teacher} refused {refused}, the first with: {next(iter(reasons.values()))}")


class AskingProgress:
    """Progress of a stage that asks a teacher, at most ten times per second: `unit`s done, of `total`, and money spent."""

    def __init__(
        self, run: kdtool.RunInfo, total: int | None, spent: Callable[[], str] | None, unit: str = "requests"
    ) -> None:
        self._run, self._total, self._spent, self._unit = run, total, spent, unit
        self._shown = 0.0

    def show(self, done: int) -> None:
        """Report how many are done."""
        if done >= (self._total or math.inf) or time.monotonic() - self._shown >= _SECONDS:
            self._shown = time.monotonic()
            unit = ", ".join(filter(None, (self._unit, self._spent and self._spent())))
            self._run.hook.kdtool_progress(replace(self._run, unit=unit), done, self._total)


_SECONDS = 0.1


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
        if len(first) < _FIRST_REQUESTS:
            first.append(request.id)
        yield request


class Priced:
    """Base class, besides `kdtool.Teacher`, of teachers whose answers cost money.

    Corpora and filters that ask such a teacher show the price in `kdtool check`, and `kdtool serve` offers it only on
    request.
    """

    def estimate_answers(
        self, run: kdtool.RunInfo, requests: Iterable[kdtool.Request], times: float = 1, most: float = 1
    ) -> Iterator[kdtool.Estimate]:
        """Yield the money and time that answers will cost. Nothing is asked, and stored answers cost nothing.

        Args:
            run: of the component that will ask.
            requests: all requests, or a sample of them.
            times: the number of requests that each one stands for.
            most: the same, if as many answers as possible are rejected and requested again. The price is that without
                rejections.
        """
        raise NotImplementedError

    def spent(self) -> str:
        """Return the money spent and its limit, such as "$0.420 of at most $5.00"; "" before anything was asked."""
        return ""


def priced_teacher(run: kdtool.RunInfo, name: str) -> Priced | None:
    """Return a component of the run if its answers cost money, else None."""
    with suppress(kdtool.UsageError):
        return run.component(name, Priced)
    return None


@dataclass
class Account:
    """Sums over all answers, the number of rows made of them, and reasons why others were left out.

    Requests with the same content are one, which is paid for once. `cut_characters` of the `characters` in accepted replies
    surround their code, and are not in the rows.
    """

    requests: int = 0
    rows: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    picodollars: int = 0
    characters: int = 0
    cut_characters: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    _keys: set[str] = field(default_factory=set)

    def add(self, answer: kdtool.TextAnswer, key: str) -> None:
        """Count an answer, accepted or not; `key` is its request's (`Teacher.answer_key`)."""
        if key in self._keys:
            return
        self._keys.add(key)
        self.requests += 1
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out
        self.picodollars += answer.picodollars

    def write(self, file: Path) -> None:
        """Store the account next to the text; without characters if none were counted."""
        account = {**vars(self), "rejected": dict(self.rejected.most_common())}
        del account["_keys"]
        if not self.characters:
            del account["characters"], account["cut_characters"]
        file.write_text(json.dumps(account), encoding="utf-8")

    @staticmethod
    def read(file: Path) -> Mapping[str, Any] | None:
        """Return the account in a file as plain data; None if there is none."""
        account: Mapping[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        return account
