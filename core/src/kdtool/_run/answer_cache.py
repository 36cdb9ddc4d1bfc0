"""Cache of paid answers: neither a corpus nor an evaluator asks a teacher the same question twice.

Answers lie in one SQLite file of the store, by the fingerprint of the teacher (or its `answer_cache_key`, with its training)
and by the whole request but its id. `kdtool clean` leaves it alone: it cost money or time. Teachers that store answers
themselves (`stores_answers`) are left to it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

from kdtool._contract.language_model import Request, Runtime, TextAnswer
from kdtool._contract.run_info import RunInfo
from kdtool._errors import StorageError
from kdtool._plugins.hooks import ComponentHooks

Ask = Callable[[Iterable[Request]], Iterator[TextAnswer]]
_SECONDS_FOR_OTHERS = 60
_TABLE = """CREATE TABLE IF NOT EXISTS answers
    (teacher TEXT, request TEXT, answer TEXT, sha256 TEXT, PRIMARY KEY (teacher, request))"""


@contextmanager
def cache_answers(run: RunInfo, file: Path, teachers: Mapping[str, str]) -> Iterator[RunInfo]:
    """Yield the run with hooks that ask `teachers` (keys by name) only for answers that are not in the database `file`.

    Several processes may use the file at once. The run shows the number of cached answers at the end.

    Raises:
        StorageError: the file cannot be read or written, or is damaged.
    """
    with _storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(file, timeout=_SECONDS_FOR_OTHERS, isolation_level=None, check_same_thread=False)
    with closing(database):
        with _storage_errors(file):
            database.execute(_TABLE)
        cached = {name: _Answers(database, file, teacher) for name, teacher in teachers.items()}
        hooks = cast("ComponentHooks", run.hook)
        hooks = hooks.replacing("kdtool_answer", {name: one.ask for name, one in cached.items()})
        hooks = hooks.replacing("kdtool_open", {name: one.open for name, one in cached.items()})
        yield replace(run, hook=hooks)
        for name, one in cached.items():
            if one.found:
                run.say(f"{one.found:,} answers of {name} are there already and are not asked for again")


class _Answers:
    """The cached answers of one teacher, without refusals."""

    def __init__(self, database: sqlite3.Connection, file: Path, teacher: str) -> None:
        self._database = database
        self._file = file
        self._teacher = teacher
        self.found = 0

    def ask(self, ask: Ask, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Yield the answers to all requests; the teacher is not called at all if every one is cached."""
        waiting = iter(requests)
        for request in waiting:
            found = self._find(request)
            if found is None:
                yield from self._ask_missing(ask, chain([request], waiting))
                return
            yield found

    def open(self, call: Callable[..., Runtime | None], *args: Any, **kwargs: Any) -> Runtime | None:
        """Open the teacher for evaluators; what it answers then is cached, too."""
        runtime = call(*args, **kwargs)
        if runtime is not None:
            vars(runtime)["answer"] = partial(self.ask, runtime.answer)
        return runtime

    def _ask_missing(self, ask: Ask, requests: Iterator[Request]) -> Iterator[TextAnswer]:
        cached: list[TextAnswer] = []
        asked: dict[str, Request] = {}

        def missing() -> Iterator[Request]:
            for request in requests:
                found = self._find(request)
                if found is None:
                    asked[request.id] = request
                    yield request
                else:
                    cached.append(found)

        for answer in ask(missing()):
            if answer.id in asked and answer.finish != "refused":  # a server that refuses now may have more room later
                self._keep(asked[answer.id], answer)
            yield answer
            yield from cached
            cached.clear()
        yield from cached

    def _find(self, request: Request) -> TextAnswer | None:
        query = "SELECT answer, sha256 FROM answers WHERE teacher = ? AND request = ?"
        with _storage_errors(self._file):
            found = self._database.execute(query, (self._teacher, _key(request))).fetchone()
        if found is None or found[1] != _digest(found[0]):  # a changed byte counts as missing
            return None
        self.found += 1
        return replace(TextAnswer(**json.loads(found[0])), id=request.id)

    def _keep(self, request: Request, answer: TextAnswer) -> None:
        text = json.dumps(asdict(answer))
        row = (self._teacher, _key(request), text, _digest(text))
        with _storage_errors(self._file):
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", row)


def _key(request: Request) -> str:
    left_out = {"id"} if request.temperature else {"id", "seed"}
    content = {name: value for name, value in asdict(request).items() if name not in left_out}
    return _digest(json.dumps(content, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _storage_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        remedy = "free space or allow writing there; move a damaged file away to ask for all answers again"
        raise StorageError(f"answers of teachers cannot be kept in {file}: {error}; {remedy}") from error
