"""Teachers for tests, and looks into their ledgers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdtool
from kdtool_measuring import Summary, read_summary
from kdtool_teacher_claude import Claude
from kdtool_testing.servers.claude_replies import MODEL


def requests(number: int, *, max_tokens: int = 256, first: int = 0) -> list[kdtool.Request]:
    """Return requests with different prompts."""
    return [kdtool.Request(f"r{i}", f"prompt {i}", max_tokens) for i in range(first, first + number)]


@contextmanager
def opened(url: str, folder: Path, **settings: Any) -> Iterator[Claude]:
    """A teacher that asks the server at `url`; its ledger is in `folder`."""
    given = {"model": MODEL, "budget_usd": 100, "ledger": folder / "ledger.sqlite", **settings}
    teacher = Claude(Claude.Config(url=url, **given))
    try:
        yield teacher
    finally:
        teacher.kdtool_close()


@dataclass(frozen=True)
class Ask:
    """Asks the server at `url`, a new teacher each time; the ledger is in `folder`."""

    url: str
    folder: Path

    def __call__(self, asked: int | Sequence[kdtool.Request], **settings: Any) -> list[kdtool.TextAnswer]:
        """Return the answers to requests, or to this number of them."""
        with self.opened(**settings) as teacher:
            return list(teacher.kdtool_answer(requests(asked) if isinstance(asked, int) else asked))

    def opened(self, **settings: Any) -> AbstractContextManager[Claude]:
        return opened(self.url, self.folder, **settings)

    @property
    def ledger(self) -> Summary:
        return read_summary(self.folder / "ledger.sqlite")

    @property
    def repeats(self) -> int:
        """Number of attempts that began when the answer to their request was stored already."""
        query = """SELECT COUNT(*) FROM attempt AS later JOIN attempt AS first ON later.key = first.key
            WHERE first.state = 'answered' AND later.id > first.id"""
        with closing(sqlite3.connect(self.folder / "ledger.sqlite")) as database:
            (count,) = database.execute(query).fetchone()
            return int(count)
