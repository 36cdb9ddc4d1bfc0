"""Answers that arrived and wait for the caller: stored at once, so that a killed process loses none of them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import kdtool

__all__ = ["Arrived"]

_ANSWERS = "answers.sqlite"


class Arrived:
    """Writes answers where kdtool looks for them and would store them when they are yielded.

    Args:
        store: the folder that runs share; None writes nothing.
        key: the key of a request, `Teacher.answer_key`.
    """

    def __init__(self, store: Path | None, key: Callable[[kdtool.Request], str]) -> None:
        self._database = None if store is None else kdtool.open_answers(store / _ANSWERS)
        self._key = key

    def keep(self, request: kdtool.Request, answer: kdtool.TextAnswer) -> None:
        """Store an answer; what cannot be written now is reported when kdtool stores it."""
        if self._database is None or answer.finish == "refused":
            return
        text = json.dumps(vars(answer))
        values = (self._key(request), text, hashlib.sha256(text.encode()).hexdigest())
        with suppress(sqlite3.Error):
            self._database.execute("INSERT OR REPLACE INTO answer (key, answer, sha256) VALUES (?, ?, ?)", values)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
