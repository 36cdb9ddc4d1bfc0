"""Teachers for tests, and looks into their ledgers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import kdtool
from kdtool_measuring import Summary, read_summary
from kdtool_teacher_claude import Claude
from kdtool_teacher_claude.testing_replies import MODEL

__all__ = ["count_requests_after_answers", "opened", "requests", "summary"]


def requests(number: int, *, max_tokens: int = 256, first: int = 0) -> list[kdtool.Request]:
    """Return requests with different prompts."""
    return [kdtool.Request(f"r{i}", f"prompt {i}", max_tokens) for i in range(first, first + number)]


@contextmanager
def opened(url: str, folder: Path, **settings: Any) -> Iterator[Claude]:
    """A teacher that asks the server at `url`; its ledger is in `folder`."""
    given = {"model": MODEL, "budget_usd": 100, "orphan_wait": 1.0, "ledger": folder / "ledger.sqlite", **settings}
    teacher = Claude(Claude.Config(url=url, **given))
    try:
        yield teacher
    finally:
        teacher.kdtool_close()


def summary(folder: Path) -> Summary:
    """Return what the ledger in `folder` holds."""
    return read_summary(folder / "ledger.sqlite")


def count_requests_after_answers(folder: Path) -> int:
    """Return the number of attempts that began when the answer to their request was stored already."""
    query = """SELECT COUNT(*) FROM attempt AS later JOIN attempt AS first ON later.key = first.key
        WHERE first.state = 'answered' AND later.id > first.id"""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as database:
        (count,) = database.execute(query).fetchone()
        return int(count)
