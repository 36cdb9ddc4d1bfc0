"""A ledger as others see it, also while a run writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import kdtool

from kdtool_ledger._ledger import About
from kdtool_ledger._tables import columns_about, storage_errors

__all__ = ["Summary", "Unanswered", "has_answer", "read_summary"]


@dataclass(frozen=True)
class Unanswered:
    """An attempt without an answer: `begun` in seconds since 1970, `reserved` picodollars, and why.

    One whose `state` is `open` is under way, or was when its process was killed; `unknown` was sent and gets no answer.
    """

    id: int
    key: str
    state: str
    begun: float
    reserved: int
    reason: str
    about: About


@dataclass(frozen=True)
class Summary:
    """Counts and picodollars of a ledger.

    `attempts` counts them by state, and `unanswered` lists those without an answer that are in no batch. `purposes` holds
    the number of answers and their cost by `About.purpose`.
    """

    answers: int
    spent: int
    held: int
    attempts: dict[str, int]
    open_batches: int
    unanswered: tuple[Unanswered, ...]
    purposes: dict[str, tuple[int, int]]

    @property
    def unknown(self) -> tuple[Unanswered, ...]:
        """Attempts that were sent and may have been charged."""
        return tuple(one for one in self.unanswered if one.state == "unknown")


def read_summary(path: Path) -> Summary:
    """Return what a ledger holds; the process that writes it is not disturbed.

    Raises:
        StorageError: there is no such file, or it does not hold answers.
        UsageError: another version wrote it.
    """
    with storage_errors(path), closing(kdtool.open_answers(path, read_only=True)) as database:
        database.execute("BEGIN")  # one moment for all that follows
        answers: int = database.execute("SELECT COUNT(*) FROM answer").fetchone()[0]
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'attempt'").fetchone() is None:
            return Summary(answers, 0, 0, {}, 0, (), {})  # all of teachers that cost nothing
        states = database.execute("SELECT state, COUNT(*), SUM(cost), SUM(reserved) FROM attempt GROUP BY state")
        rows = {state: (count, cost, reserved) for state, count, cost, reserved in states}
        about = columns_about(database)
        unanswered = database.execute(
            f"SELECT id, key, state, begun, reserved, reason, {about} FROM attempt "  # noqa: S608 - column names of ours
            "WHERE state = 'unknown' OR (state = 'open' AND batch IS NULL) ORDER BY id"
        )
        purposes = database.execute(
            "SELECT purpose, COUNT(*), SUM(cost) FROM "  # noqa: S608 - column names of ours
            f"(SELECT cost, {about} FROM attempt WHERE state = 'answered') GROUP BY purpose ORDER BY purpose"
        )
        return Summary(
            answers=answers,
            spent=sum(cost for _, cost, _ in rows.values()),
            held=sum(rows[state][2] for state in ("open", "unknown") if state in rows),
            attempts={state: count for state, (count, _, _) in rows.items()},
            open_batches=database.execute("SELECT COUNT(*) FROM batch WHERE state = 'open'").fetchone()[0],
            unanswered=tuple(
                Unanswered(number, key, state, begun, reserved, reason, About(*names))
                for number, key, state, begun, reserved, reason, *names in unanswered
            ),
            purposes={name: (count, cost) for name, count, cost in purposes},
        )


def has_answer(path: Path, keys: Iterable[str]) -> Iterator[bool]:
    """Yield for each key whether its answer is stored; nothing is, where there is no file. Raises as `read_summary`."""
    if not path.exists():
        yield from (False for _ in keys)
        return
    with storage_errors(path), closing(kdtool.open_answers(path, read_only=True)) as database:
        for key in keys:
            yield database.execute("SELECT 1 FROM answer WHERE key = ?", (key,)).fetchone() is not None
