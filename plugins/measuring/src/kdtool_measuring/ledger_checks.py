"""A ledger from outside: its summary, also while a run writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import kdtool

from kdtool_measuring.ledger import About
from kdtool_measuring.ledger_files import storage_errors
from kdtool_measuring.ledger_tables import require_whole, tables_of


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

    `attempts` counts them by state, and `unanswered` lists those without an answer that are in no batch. `purposes` maps
    `About.purpose` to the number of answers and their cost.
    """

    answers: int
    spent: int
    held: int
    attempts: dict[str, int]
    open_batches: int
    unanswered: tuple[Unanswered, ...]
    purposes: dict[str, tuple[int, int]]
    thinking: int = 0
    """Tokens of thinking in all answers; they are part of the output that was paid for."""

    @property
    def unknown(self) -> tuple[Unanswered, ...]:
        """Attempts that were sent and may have been charged."""
        return tuple(attempt for attempt in self.unanswered if attempt.state == "unknown")


def read_summary(path: Path) -> Summary:
    """Return a summary of a ledger without disturbing the process that writes it.

    Raises:
        StorageError: there is no such file, it contains no answers, or is damaged.
        UsageError: another version wrote it.
    """
    with storage_errors(path), closing(kdtool.open_answers(path, read_only=True)) as database:
        database.execute("BEGIN")  # one moment for all that follows
        money = require_whole(database, path)
        tables = tables_of(database)
        answers: int = database.execute("SELECT COUNT(*) FROM answer").fetchone()[0] if tables else 0
        if "attempt" not in tables:
            return Summary(answers, 0, 0, {}, 0, (), {})  # all of teachers that cost nothing
        states = database.execute("SELECT state, COUNT(*) FROM attempt GROUP BY state")
        unanswered = database.execute(
            "SELECT id, key, state, begun, reserved, reason, model, purpose, request FROM attempt "
            "WHERE state = 'unknown' OR (state = 'open' AND batch IS NULL) ORDER BY id"
        )
        purposes = database.execute(
            "SELECT purpose, COUNT(*), SUM(cost) FROM attempt WHERE state = 'answered' GROUP BY purpose ORDER BY purpose"
        )
        return Summary(
            answers=answers,
            spent=money.spent,
            held=money.held,
            attempts=dict(states.fetchall()),
            open_batches=database.execute("SELECT COUNT(*) FROM batch WHERE state = 'open'").fetchone()[0],
            unanswered=tuple(
                Unanswered(number, key, state, begun, reserved, reason, About(*names))
                for number, key, state, begun, reserved, reason, *names in unanswered
            ),
            purposes={name: (count, cost) for name, count, cost in purposes},
            thinking=database.execute("SELECT COALESCE(SUM(thinking), 0) FROM attempt").fetchone()[0],
        )


def has_answer(path: Path, keys: Iterable[str]) -> Iterator[bool]:
    """Yield for each key whether its answer is stored; False if there is no file. Raises as `read_summary`."""
    if not path.exists():
        yield from (False for _ in keys)
        return
    with storage_errors(path), closing(kdtool.open_answers(path, read_only=True)) as database:
        for key in keys:
            yield database.execute("SELECT 1 FROM answer WHERE key = ?", (key,)).fetchone() is not None
