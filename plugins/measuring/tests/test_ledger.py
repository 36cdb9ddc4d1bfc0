"""The ledger: money adds up whatever happens, and a killed process or a full disk loses nothing that was confirmed."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import kdtool
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdtool_measuring import Attempt, Ledger, Summary, has_answer, read_summary

_MOVES = st.lists(
    st.tuples(
        st.sampled_from(["settle", "release", "doubt", "leave", "reopen"]),
        st.integers(0, 5),
        st.integers(0, 400),
        st.integers(0, 100),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(_MOVES, st.integers(0, 2000))
def test_money_adds_up_and_never_exceeds_the_limit(moves: list[tuple[str, int, int, int]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite"
        ledger, spent, held, answers = Ledger(file), 0, 0, {}
        for number, (move, name, reserved, share) in enumerate(moves):
            if move == "reopen":
                ledger.close()
                ledger = Ledger(file)
            else:
                attempt = ledger.reserve(f"key {name}", reserved, limit=limit)
                assert (attempt is None) == (spent + held + reserved > limit)
                if attempt is None:
                    continue
                ledger.write_intent(attempt).result()
                cost = reserved * share // 100
                if move == "settle":
                    ledger.settle(attempt, _answer(f"answer {number}"), cost).result()
                    answers[attempt.key], spent = _answer(f"answer {number}"), spent + cost
                elif move == "release":
                    ledger.release(attempt, "refused").result()
                else:
                    held += reserved
                    if move == "doubt":
                        ledger.doubt(attempt, "cut off").result()
            assert (ledger.spent, ledger.on_hold) == (spent, held)
            assert spent + held <= limit
        assert {key: ledger.find(key) for key in answers} == answers
        seen = read_summary(file)
        assert (seen.spent, seen.held, seen.answers) == (spent, held, len(answers))
        ledger.close()


def test_an_attempt_of_a_dead_process_is_unknown_and_stays_reserved(file: Path) -> None:
    with Ledger(file) as ledger:
        attempt = _attempt(ledger, "left", 70)
        under_way = read_summary(file)
        assert ([one.state for one in under_way.unanswered], under_way.unknown) == (["open"], ())
    with Ledger(file) as ledger:
        assert (ledger.on_hold, ledger.unknown()) == (70, {"left": 1})
        assert ledger.reserve("other", 31, limit=100) is None
        assert _attempt(ledger, "other", 30).id > attempt.id
    (seen, *_) = read_summary(file).unknown
    assert (seen.id, seen.key, seen.reserved) == (attempt.id, "left", 70)


def test_a_batch_is_open_until_it_ends_and_missing_results_are_unknown(file: Path) -> None:
    with Ledger(file) as ledger:
        attempts = [_reserve(ledger, f"key {number}", 10) for number in range(3)]
        ledger.write_batch("mine", attempts).result()
    with Ledger(file) as ledger:  # a restart leaves batches as they are
        (batch,) = ledger.open_batches()
        assert (batch.id, batch.remote, list(batch.attempts)) == ("mine", "", attempts)
        ledger.write_submitted("mine", "theirs").result()
        ledger.settle(attempts[0], "an answer", 4).result()
        ledger.release(attempts[1], "errored").result()
        assert ledger.known_batches() == {"theirs"}
        assert [one.id for one in ledger.open_batches()[0].attempts] == [attempts[2].id]
        ledger.end_batch("mine").result()
        assert ledger.open_batches() == []
        assert (ledger.spent, ledger.on_hold, ledger.unknown()) == (4, 10, {"key 2": 1})


def test_free_answers_are_in_the_same_table(file: Path) -> None:
    with closing(kdtool.open_answers(file)) as database:
        database.execute("INSERT INTO answer VALUES (?, ?, ?)", ("key", *_row("free")))
    assert read_summary(file) == Summary(1, 0, 0, {}, 0, (), {})
    with Ledger(file) as ledger, closing(kdtool.open_answers(file)) as database:
        assert ledger.find("key") == _answer("free")
        ledger.settle(_attempt(ledger, "other", 9), "paid", 7).result()
        assert database.execute("SELECT COUNT(*) FROM answer").fetchone() == (2,)
    assert list(has_answer(file, ["key", "other", "third"])) == [True, True, False]
    assert [read_summary(file).answers, read_summary(file).spent] == [2, 7]


def test_one_process_writes_and_teachers_of_one_process_share_a_ledger(file: Path) -> None:
    first, second = (Ledger.open_shared(file) for _ in range(2))
    assert first is second
    with pytest.raises(kdtool.LockedError, match=r"in use by another run; wait for it"):
        Ledger(file)
    first.close()
    second.settle(_attempt(second, "key", 9), _answer("yes"), 7).result()
    assert read_summary(file).spent == 7
    second.close()
    with Ledger.open_shared(file) as third:
        assert (third is first, third.find("key")) == (False, _answer("yes"))


def test_two_writers_without_a_lock_are_told_of_each_other(file: Path) -> None:
    with Ledger(file) as ledger:
        file.with_name(f"{file.name}.lock").unlink()
        with Ledger(file) as other:
            for each in (ledger, other):
                attempt = each.reserve("key", 1, limit=10)
                assert attempt is not None
                written = each.write_intent(attempt)
                each is ledger and written.result()
            with pytest.raises(kdtool.LockedError, match=f"{file.name}.lock was deleted while both ran"):
                written.result()


def test_a_full_disk_keeps_what_was_written_and_begins_nothing_new(file: Path) -> None:
    with Ledger(file) as ledger:
        ledger.settle(_attempt(ledger, "kept", 5), _answer("yes"), 5).result()
        (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
        attempt, batch = _attempt(ledger, "lost", 5), _reserve(ledger, "batch", 2)
        ledger.write_batch("batch", [batch]).result()
        with pytest.raises(kdtool.StorageError, match=r"full; free space"):
            ledger.settle(attempt, _answer("x" * 100_000), 5).result()
        for write in (
            lambda: _attempt(ledger, "next", 1),
            lambda: ledger.write_batch("next", [_reserve(ledger, "next", 1)]).result(),
            lambda: ledger.end_batch("batch").result(),  # its results could not be written: it is collected again
        ):
            with pytest.raises(kdtool.StorageError, match=r"full; free space"):
                write()
    with Ledger(file) as ledger:
        assert [ledger.find(key) for key in ("kept", "lost")] == [_answer("yes"), None]
        assert (ledger.spent, ledger.on_hold, ledger.unknown()) == (5, 7, {"lost": 1})
        assert [one.id for one in ledger.open_batches()] == ["batch"]


def test_commits_are_synced(file: Path) -> None:
    with Ledger(file) as ledger:
        assert ledger._database.execute("PRAGMA synchronous").fetchone() == (2,), "FULL survives a power cut"


_WORKER = """
import sys
from pathlib import Path
from kdtool_measuring import Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(10**6):
    key = f"{sys.argv[2]}-{number}"
    attempt = ledger.reserve(key, 10, limit=10**12)
    ledger.write_intent(attempt).result()
    print("intent", key, flush=True)
    answer = '{"id": "%s", "text": "", "finish": "stop", "tokens_in": 1, "tokens_out": 1}' % key
    ledger.settle(attempt, answer, 7).result()
    print("settled", key, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_confirmed(file: Path) -> None:
    lines = list[str]()
    for life in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(file), str(life)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines += [process.stdout.readline() for _ in range(25 * life)]  # the first one dies while it opens the file
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
    intents = {line.split()[1] for line in lines if line.startswith("intent")}
    settled = {line.split()[1] for line in lines if line.startswith("settled")}
    _back_up(file, file.with_name("backup.sqlite"))
    for each in (file.with_name("backup.sqlite"), file):
        with Ledger(each) as ledger:
            assert all(f'"{key}"' in (ledger.find(key) or "") for key in settled)
            answers = read_summary(each).answers
            assert ledger.spent == 7 * answers
            assert len(settled) <= answers <= len(settled) + 4
            unknown = ledger.unknown()
            assert len(unknown) <= 4, "one attempt was under way at each kill"
            assert ledger.on_hold == 10 * len(unknown)
            assert all(key in unknown or ledger.find(key) for key in intents)


_DAMAGES: dict[str, str | Callable[[Path], object]] = {
    "no database": lambda file: file.write_bytes(b"no database" * 1000),
    "first page": lambda file: file.write_bytes(b"\x5a" * 4096 + file.read_bytes()[4096:]),
    "negative cost": "UPDATE attempt SET cost = -31000 WHERE id = 2",
    "sums that overflow": "UPDATE attempt SET cost = 9223372036854775807",
    "unknown state": "UPDATE attempt SET state = 'free' WHERE id = 2",
    "state of a batch": "INSERT INTO batch VALUES ('b', '', 'lost', 0)",
    "no answers": "DROP TABLE answer",
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_a_damaged_or_foreign_file_is_refused_until_it_is_restored_or_deleted(file: Path, damage: str) -> None:
    backup = file.with_name("backup.sqlite")
    with Ledger(file) as ledger:
        for key in ("a", "b"):
            ledger.settle(_attempt(ledger, key, 10), _answer("x" * 5000), 7).result()
        _back_up(file, backup)
    change = _DAMAGES[damage]
    if isinstance(change, str):
        with closing(sqlite3.connect(file)) as database, database:
            database.execute(change)
    else:
        change(file)
    for look in (Ledger, read_summary):
        with pytest.raises(
            kdtool.StorageError,
            match=rf"ledger {file} is damaged: .*; delete it and .*-wal, and restore it from a backup",
        ):
            look(file)
    file.unlink()
    backup.rename(file)
    with Ledger(file) as ledger:
        assert (ledger.spent, ledger.find("a")) == (14, _answer("x" * 5000))


def test_changed_answers_are_missing_and_foreign_ones_refused(file: Path) -> None:
    with Ledger(file), closing(sqlite3.connect(file)) as database, database:
        foreign = ["{", "[1]", '{"id": "a", "foreign": 1}', json.dumps({"id": 1, "text": None})]
        rows = [(text, text, sha256(text.encode()).hexdigest()) for text in foreign]
        rows += [("changed", _answer("yea"), _row("yes")[1]), ("good", *_row("yes"))]
        database.executemany("INSERT INTO answer VALUES (?, ?, ?)", rows)
    with Ledger(file) as ledger:
        for key in foreign:
            with pytest.raises(kdtool.StorageError, match=r"is not one that kdtool wrote; delete it"):
                ledger.find(key)
        assert [ledger.find("changed"), ledger.find("changed"), ledger.mismatches] == [None, None, 1]
        assert ledger.find("good") == _answer("yes")


def test_a_file_that_cannot_be_a_ledger_is_refused_and_kept(tmp_path: Path) -> None:
    with pytest.raises(kdtool.StorageError, match=r"is a directory; expected the file of a ledger"):
        Ledger(tmp_path)
    with pytest.raises(kdtool.StorageError):
        read_summary(tmp_path / "nothing")
    file = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 7")
    before = file.read_bytes()
    with pytest.raises(kdtool.UsageError, match=r"format 7.*install the version that wrote it"):
        Ledger(file)
    assert file.read_bytes() == before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def _back_up(file: Path, backup: Path) -> None:
    """Copy a ledger as its documentation says."""
    with closing(sqlite3.connect(file)) as ledger, closing(sqlite3.connect(backup)) as copy:
        ledger.backup(copy)


def _answer(text: str) -> str:
    return json.dumps(vars(kdtool.TextAnswer("", text, "stop", 1, 1)))


def _row(text: str) -> tuple[str, str]:
    return _answer(text), sha256(_answer(text).encode()).hexdigest()


def _reserve(ledger: Ledger, key: str, reserved: int) -> Attempt:
    attempt = ledger.reserve(key, reserved, limit=10**15)
    assert attempt is not None
    return attempt


def _attempt(ledger: Ledger, key: str, reserved: int) -> Attempt:
    attempt = _reserve(ledger, key, reserved)
    ledger.write_intent(attempt).result()
    return attempt
