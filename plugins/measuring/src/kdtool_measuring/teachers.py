"""Teachers that are asked for training text: stored answers, their price, an account of them, and lines on progress.

Asking stops early if a teacher refuses everything. The account is written with the text, for `kdtool_account`, and read by
every run with it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
        if not hopeful and len(first) == _FIRST_REQUESTS and reasons.keys() >= set(first):
            reason = reasons[first[0]]
            raise kdtool.UsageError(
                f"{teacher} refuses each of the first {_FIRST_REQUESTS} requests, so the others are not sent ({reason}); "
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


def priced_teacher(run: kdtool.RunInfo, name: str) -> Priced | None:
    """Return a component of the run if its answers cost money, else None."""
    with suppress(kdtool.UsageError):
        return run.component(name, Priced)
    return None


@dataclass
class Account:
    """Sums over all answers, the number of rows made of them, and reasons why others were left out.

    `cut_characters` of the `characters` in accepted replies surround their code, and are not in the rows.
    """

    requests: int = 0
    rows: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    picodollars: int = 0
    characters: int = 0
    cut_characters: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, answer: kdtool.TextAnswer) -> None:
        """Count an answer, accepted or not."""
        self.requests += 1
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out
        self.picodollars += answer.picodollars

    def write(self, file: Path) -> None:
        """Store the account next to the text; without characters if none were counted."""
        account = {**vars(self), "rejected": dict(self.rejected.most_common())}
        if not self.characters:
            del account["characters"], account["cut_characters"]
        file.write_text(json.dumps(account), encoding="utf-8")

    @staticmethod
    def read(file: Path) -> Mapping[str, Any] | None:
        """Return the account in a file as plain data; None if there is none."""
        account: Mapping[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        return account


SECONDS = 30.0
"""Time between two lines."""


class Pace:
    """Shows a line every half minute, with the time left at the speed since the last one.

    Args:
        say: shows a line.
        now: the clock, in seconds.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._say, self._now = say, now
        self._shown, self._share = now(), 0.0

    def is_due(self) -> bool:
        """Return whether half a minute has passed since the last line."""
        return self._now() - self._shown >= SECONDS

    def show(self, text: str, share: float) -> None:
        """Show a line; `share` is the part of the work that is done, from 0 to 1."""
        now, gained = self._now(), share - self._share
        if gained > 0:
            text += f", {_duration((1 - min(1.0, share)) * (now - self._shown) / gained)} left at this speed"
        self._shown, self._share = now, share
        self._say(text)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
