"""Stored answers of teachers: neither a corpus nor an evaluator asks a teacher the same question twice.

All answers are in one SQLite file of the store, by `Teacher.answer_key`. `kdtool clean` keeps it: it cost money or
time. Teachers that store answers themselves (`stores_answers`) write into the same table, and are not asked here.

A SQLite file cannot be shared with a process of another machine. Such a process gets a copy of the stored answers, in a file
of the store that only it opens, and adds what its teachers compute. The machine of the run takes the additions back. A
process that is lost leaves its file to the one that replaces it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from kdtool._contract.language_model import Request, Runtime, TextAnswer
from kdtool._contract.run_info import RunInfo
from kdtool._contract.sources import Teacher
from kdtool._errors import StorageError, UsageError
from kdtool._plugins.hooks import ComponentHooks
from kdtool._store.files import PRIVATE, make_private
from kdtool._text.terminal import count_of

Ask = Callable[[Iterable[Request]], Iterator[TextAnswer]]
_SECONDS_FOR_OTHERS = 60
_VERSION = 2
"""Format of the file, in `PRAGMA user_version`."""
_KEEP = """INSERT INTO answer (key, answer, sha256) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE
    SET answer = excluded.answer, sha256 = excluded.sha256
    WHERE answer <> excluded.answer OR sha256 <> excluded.sha256"""
"""Writes nothing if a teacher stored the same answer when it arrived."""
_TABLE = "CREATE TABLE answer (key TEXT PRIMARY KEY, answer TEXT NOT NULL, sha256 TEXT NOT NULL)"
_SCHEMA = """SELECT sql FROM sqlite_master
    WHERE sql NOT NULL AND (type IN ('trigger', 'view') OR tbl_name = 'answer' COLLATE NOCASE)"""
"""Finds all that SQLite would run when the table is used."""
_SETUP = (
    "BEGIN IMMEDIATE",
    f"PRAGMA user_version = {_VERSION}",
    _TABLE.replace("TABLE", "TABLE IF NOT EXISTS"),
    "COMMIT",
)
_ANSWER = TypeAdapter(TextAnswer)


def open_answers(file: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection to a file of answers, in autocommit mode and for any thread. A missing file is made.

    Its table `answer` has the columns `key` (`Teacher.answer_key`), `answer` (a `TextAnswer` as JSON) and `sha256` (of that
    text). Further tables belong to those who make them. Several processes of one machine may use the file at once. A commit
    survives a killed process; set `PRAGMA synchronous = FULL` if it must survive a power cut, too. Since 0.1.

    Raises:
        UsageError: another version wrote the file.
        StorageError: it cannot be read or written, is damaged, or has triggers, views, or another table `answer`.
    """
    address = f"{file.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    with storage_errors(file), ExitStack() as stack:
        if not read_only:
            make_private(file.parent)
            if not file.exists():
                file.touch(mode=PRIVATE)  # SQLite gives the files beside it the same mode
        if file.is_symlink() or not file.is_file():  # closing the file here would release the locks of SQLite
            raise OSError("it is a link, a pipe, a device or missing")
        database = sqlite3.connect(
            address, uri=True, timeout=_SECONDS_FOR_OTHERS, isolation_level=None, check_same_thread=False
        )
        stack.callback(database.close)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version not in {0, _VERSION}:
            raise UsageError(
                f"{file} holds answers in format {version}, but this kdtool reads format {_VERSION}: install the version "
                "that wrote it, or move the file away to ask again"
            )
        if not version and not read_only:
            for statement in _SETUP:
                database.execute(statement)
            with suppress(sqlite3.OperationalError):  # another process that opens the file does it now
                database.execute("PRAGMA journal_mode = WAL")
        schema = [sql for (sql,) in database.execute(_SCHEMA)]
        if schema != [_TABLE] and (schema or version):
            raise sqlite3.DatabaseError("its tables, triggers or views are not those that kdtool makes")
        database.execute("PRAGMA synchronous = NORMAL")
        stack.pop_all()
    return database


@contextmanager
def cache_answers(
    run: RunInfo,
    file: Path,
    teachers: Mapping[str, str],
    divided: Mapping[str, Callable[[Ask], Ask]] = {},
    *,
    exclusive: bool = False,
) -> Iterator[RunInfo]:
    """Yield the run with hooks that ask `teachers` only for answers that are not in `file`.

    `teachers` are `weights` by name, see `Teacher.answer_key`; several processes answer what those in `divided` are asked.
    With `exclusive` no other process reads the file meanwhile. The run shows the number of cached answers at the end, when
    all of them are on the disk. Raises as `open_answers`.
    """
    with closing(open_answers(file)) as database:
        if exclusive:
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
        keys = {
            name: partial(run.component(name, Teacher).answer_key, weights=weights)
            for name, weights in teachers.items()
        }
        cached = {name: _Answers(database, file, key) for name, key in keys.items()}
        hooks = cast("ComponentHooks", run.hook)
        hooks = hooks.replacing(
            "kdtool_answer", {name: partial(cache.ask_by, divided.get(name)) for name, cache in cached.items()}
        )
        hooks = hooks.replacing("kdtool_open", {name: cache.open for name, cache in cached.items()})
        yield replace(run, hook=hooks)
        with storage_errors(file):
            database.execute("PRAGMA wal_checkpoint")  # synced, before files that depend on answers are
        for name, cache in cached.items():
            if cache.changed:
                run.say(
                    f"{count_of(len(cache.changed), 'answer')} of {name} in {file.name} changed on disk: asking again"
                )
            if cache.found:
                run.say(f"{count_of(cache.found, 'answer')} of {name} reused: not asked for again")


class _Answers:
    """The cached answers of one teacher, without refusals."""

    def __init__(self, database: sqlite3.Connection, file: Path, key: Callable[[Request], str]) -> None:
        self._database = database
        self._file = file
        self._key = key
        self.found = 0
        self.changed: set[str] = set()

    def ask(self, ask: Ask, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Yield the answers to all requests; the teacher is not called at all if every one is cached."""
        waiting = iter(requests)
        for request in waiting:
            found = self._find(request, self._key(request))
            if found is None:
                yield from self._ask_missing(ask, chain([request], waiting))
                return
            yield found

    def ask_by(
        self, divided: Callable[[Ask], Ask] | None, ask: Ask, requests: Iterable[Request]
    ) -> Iterator[TextAnswer]:
        """Yield the answers as `ask` does; missing ones are asked for by several processes if `divided` is given."""
        return self.ask(divided(ask) if divided else ask, requests)

    def open(self, call: Callable[..., Runtime | None], *args: Any, **kwargs: Any) -> Runtime | None:
        """Open the teacher for evaluators; what it answers then is cached, too."""
        runtime = call(*args, **kwargs)
        if runtime is not None:
            runtime.answer = partial(self.ask, runtime.answer)  # type: ignore[method-assign]
        return runtime

    def _ask_missing(self, ask: Ask, requests: Iterator[Request]) -> Iterator[TextAnswer]:
        cached: list[TextAnswer] = []
        asked: dict[str, str] = {}

        def missing() -> Iterator[Request]:
            for request in requests:
                key = self._key(request)
                stored = self._find(request, key)
                if stored is None:
                    asked[request.id] = key
                    yield request
                else:
                    cached.append(stored)

        for answer in ask(missing()):
            if answer.id in asked and answer.finish != "refused":  # a server that refuses now may have more room later
                self._keep(asked[answer.id], answer)
            yield answer
            yield from cached
            cached.clear()
        yield from cached

    def _find(self, request: Request, key: str) -> TextAnswer | None:
        with storage_errors(self._file):
            stored = self._database.execute("SELECT answer, sha256 FROM answer WHERE key = ?", (key,)).fetchone()
        if stored is None:
            return None
        answer = read_answer(*stored)
        if answer is None:
            self.changed.add(key)
            return None
        self.found += 1
        return replace(answer, id=request.id)

    def _keep(self, key: str, answer: TextAnswer) -> None:
        text = json.dumps(vars(answer))
        with storage_errors(self._file):
            self._database.execute(_KEEP, (key, text, text_digest(text)))


def read_answer(text: object, sha256: object) -> TextAnswer | None:
    """Return a stored answer; None if its text is not the one that was stored, or is not an answer."""
    with suppress(ValueError, RecursionError):
        if isinstance(text, str) and sha256 == text_digest(text):
            return _ANSWER.validate_python(json.loads(text))
    return None


def text_digest(text: str) -> str:
    """Return the hash that is stored with a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def storage_errors(file: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the disk as StorageError, with the file and a remedy."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        remedy = "free space or allow writing there; restore a damaged file from a backup, or delete it"
        raise StorageError(f"answers of teachers cannot be kept in {file}: {error}; {remedy}") from error


_FOLDER = "answers"
_COPY = """INSERT INTO answer SELECT key, answer, sha256 FROM other.answer WHERE true ON CONFLICT (key) DO UPDATE
    SET answer = excluded.answer, sha256 = excluded.sha256
    WHERE (answer, sha256) IS NOT (excluded.answer, excluded.sha256) AND NOT is_intact(answer, sha256)"""
"""Replaces an answer only if the stored one is damaged."""


def lent_file(store: Path, stage: str) -> Path:
    """Return the file of answers for a process that makes the stage with this fingerprint."""
    return store / _FOLDER / f"{stage}.sqlite"


def lend_answers(answers: Path, lent: Path) -> None:
    """Copy the stored answers to `lent`, unless a lost process has left that file.

    It has SQLite's older journal: the newer one needs memory that processes share, which network file systems do not offer.

    Raises as `open_answers`.
    """
    if lent.exists():
        return
    part = lent.with_suffix(".part")
    _delete(part)
    with closing(open_answers(part)) as database:
        if answers.exists():
            _copy(answers, database)
        database.execute("PRAGMA journal_mode = DELETE")
    part.replace(lent)


def take_back_answers(answers: Path, files: Iterable[Path]) -> None:
    """Add the answers in lent files to the stored ones, and delete the files; one that a process has open stays.

    Raises as `open_answers`.
    """
    for lent in files:
        with closing(open_answers(answers)) as database, storage_errors(lent):
            database.execute("PRAGMA busy_timeout = 0")
            try:
                _copy(lent, database)
            except sqlite3.OperationalError:  # locked
                continue
        _delete(lent)


def _copy(source: Path, database: sqlite3.Connection) -> None:
    database.create_function("is_intact", 2, lambda *stored: read_answer(*stored) is not None)
    database.execute("ATTACH ? AS other", (str(source),))
    try:
        database.execute(_COPY)
    finally:
        database.execute("DETACH other")


def _delete(file: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
