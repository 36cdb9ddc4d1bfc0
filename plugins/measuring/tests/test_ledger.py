"""The ledger: money adds up whatever happens, a killed process loses nothing that it confirmed, bad files are a sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path

import kdtool
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdtool_measuring import About, Attempt, Ledger, Summary, has_answer, read_summary
from kdtool_measuring.ledger_files import Spare

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


def test_an_attempt_of_a_dead_process_is_unknown_and_stays_reserved(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        attempt = _attempt(ledger, "left", 70)
        under_way = read_summary(tmp_path / "ledger.sqlite")
        assert ([one.state for one in under_way.unanswered], under_way.unknown) == (["open"], ())
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert (ledger.on_hold, ledger.unknown()) == (70, {"left": 1})
        assert ledger.reserve("other", 31, limit=100) is None
        assert _attempt(ledger, "other", 30).id > attempt.id
    (seen, *_) = read_summary(tmp_path / "ledger.sqlite").unknown
    assert (seen.id, seen.key, seen.reserved) == (attempt.id, "left", 70)


def test_a_batch_is_open_until_it_ends_and_what_is_missing_is_unknown(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        attempts = [_reserve(ledger, f"key {number}", 10) for number in range(3)]
        ledger.write_batch("mine", attempts).result()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:  # a restart leaves batches as they are
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


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1e9, 2e9, 5.0, 0.0])
    monkeypatch.setattr("time.time", lambda: next(times, -1.0))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        attempts = [_attempt(ledger, f"key {number}", 1) for number in range(4)]
        ledger.settle(attempts[3], "yes", 1).result()
        assert [one.id for one in attempts] == [1, 2, 3, 4]
        assert (ledger.spent, ledger.on_hold) == (1, 3)


def test_answers_that_cost_nothing_lie_in_the_same_table(tmp_path: Path) -> None:
    file, text = tmp_path / "answers.sqlite", _answer("free")
    with closing(kdtool.open_answers(file)) as database:
        row = ("key", text, hashlib.sha256(text.encode()).hexdigest())
        database.execute("INSERT INTO answer VALUES (?, ?, ?)", row)
    assert read_summary(file) == Summary(1, 0, 0, {}, 0, (), {})
    with Ledger(file) as ledger, closing(kdtool.open_answers(file)) as database:
        assert ledger.find("key") == text
        ledger.settle(_attempt(ledger, "other", 9), "paid", 7).result()
        assert database.execute("SELECT COUNT(*) FROM answer").fetchone() == (2,)
    assert list(has_answer(file, ["key", "other", "third"])) == [True, True, False]
    assert [read_summary(file).answers, read_summary(file).spent] == [2, 7]


def test_a_changed_answer_counts_as_missing(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    with Ledger(file) as ledger:
        ledger.settle(_attempt(ledger, "key", 1), "yes", 1).result()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE answer SET answer = 'yea'")
    with Ledger(file) as ledger:
        assert [ledger.find("key"), ledger.find("key"), ledger.mismatches] == [None, None, 1]


def test_one_process_writes_and_others_read(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    with Ledger(file) as ledger:
        with pytest.raises(kdtool.LockedError, match=r"in use by another run; wait for it"):
            Ledger(file)
        ledger.settle(_attempt(ledger, "key", 9), _answer("yes"), 7).result()
        seen = read_summary(file)
        assert (seen.answers, seen.spent, seen.held) == (1, 7, 0)
    Ledger(file).close()


def test_teachers_of_one_process_share_a_ledger(tmp_path: Path) -> None:
    first, second = (Ledger.open_shared(tmp_path / "ledger.sqlite") for _ in range(2))
    assert first is second
    first.close()
    second.settle(_attempt(second, "key", 9), _answer("yes"), 7).result()
    second.close()
    with Ledger.open_shared(tmp_path / "ledger.sqlite") as third:
        assert (third is first, third.find("key")) == (False, _answer("yes"))


def test_a_ledger_of_another_version_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 7")
    before = file.read_bytes()
    with pytest.raises(kdtool.UsageError, match=r"format 7.*install the version that wrote it"):
        Ledger(file)
    assert sqlite3.connect(file).execute("PRAGMA user_version").fetchone() == (7,)
    assert before


def test_a_damaged_file_and_a_full_disk_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"no database" * 1000)
    with pytest.raises(kdtool.StorageError, match=r"is damaged: file is not a database; .*run `kdtool data mend "):
        Ledger(tmp_path / "other")
    with pytest.raises(kdtool.StorageError):
        read_summary(tmp_path / "nothing")
    with Ledger(tmp_path / "full") as ledger:
        ledger.settle(_attempt(ledger, "kept", 5), _answer("yes"), 5).result()
        (pages,) = ledger._database.execute("PRAGMA page_count").fetchone()
        ledger._database.execute(f"PRAGMA max_page_count = {pages}")
        attempt = _attempt(ledger, "lost", 5)
        with pytest.raises(kdtool.StorageError, match=r"full; free space"):
            ledger.settle(attempt, "x" * 100_000, 5).result()
        with pytest.raises(kdtool.StorageError):  # and nothing is sent after that
            _attempt(ledger, "next", 1)
        assert (ledger.spent, ledger.on_hold) == (5, 6)
    with Ledger(tmp_path / "full") as ledger:
        assert (ledger.find("kept"), ledger.find("lost")) == (_answer("yes"), None)


def test_a_full_disk_has_room_for_what_is_under_way_and_for_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = tmp_path / "ledger.sqlite.spare"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert spare.stat().st_blocks * 512 >= 16 * 2**20, "it takes the room"
        database, free = ledger._database, Spare.free
        under_way = [_attempt(ledger, f"key {number}", 5) for number in range(3)]
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")

        def make_room(spare: Spare) -> bool:
            database.execute(f"PRAGMA max_page_count = {2 * pages + 1000}")
            return free(spare)

        monkeypatch.setattr(Spare, "free", make_room)
        for attempt in under_way:
            ledger.settle(attempt, _answer("x" * 100_000), 5).result()
        assert not spare.exists()
        for begin in (ledger.write_intent, lambda attempt: ledger.write_batch("batch", [attempt])):
            with pytest.raises(kdtool.StorageError, match=r"full; free space"):
                begin(_reserve(ledger, "next", 1)).result()
        assert [ledger.find(attempt.key) for attempt in under_way] == [_answer("x" * 100_000)] * 3
    assert read_summary(tmp_path / "ledger.sqlite").attempts == {"answered": 3}


def test_without_room_for_the_spare_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(kdtool.StorageError, match=r"No space left on device; free space"):
        Ledger(tmp_path / "ledger.sqlite")
    monkeypatch.undo()
    with Ledger(tmp_path / "ledger.sqlite"):
        assert (tmp_path / "ledger.sqlite.spare").exists()
    assert not (tmp_path / "ledger.sqlite.spare").exists()


def test_writes_share_commits(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        before = ledger._database.total_changes
        commits: list[str] = []
        ledger._database.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        wait([ledger.write_intent(_reserve(ledger, f"key {number}", 1)) for number in range(500)])
        ledger._database.set_trace_callback(None)
        assert ledger._database.total_changes - before == 500 + len(commits), "each commit is counted"
        assert len(commits) < 250


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


def test_a_killed_process_loses_nothing_that_it_confirmed(tmp_path: Path) -> None:
    file, lines = tmp_path / "ledger.sqlite", list[str]()
    for life in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(file), str(life)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines += [process.stdout.readline() for _ in range(40 + 7 * life)]
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
    intents = {line.split()[1] for line in lines if line.startswith("intent")}
    settled = {line.split()[1] for line in lines if line.startswith("settled")}
    with Ledger(file) as ledger:
        assert all(f'"{key}"' in (ledger.find(key) or "") for key in settled)
        answers = read_summary(file).answers
        assert ledger.spent == 7 * answers
        assert len(settled) <= answers <= len(settled) + 4
        unknown = ledger.unknown()
        assert len(unknown) <= 4, "one attempt was under way at each kill"
        assert ledger.on_hold == 10 * len(unknown)
        assert all(key in unknown or ledger.find(key) for key in intents)


def test_a_file_of_an_earlier_version_is_read_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    with Ledger(file) as ledger:
        ledger.settle(_attempt(ledger, "first", 10), "answer", 7).result()
        ledger.doubt(_attempt(ledger, "second", 10), "cut off").result()
    with closing(kdtool.open_answers(file)) as database:
        for name in ("model", "purpose", "request"):
            database.execute(f"ALTER TABLE attempt DROP COLUMN {name}")
    before = read_summary(file)
    assert (before.purposes, [one.about for one in before.unknown]) == ({"": (1, 7)}, [About()])
    with Ledger(file) as ledger:
        attempt = ledger.reserve("third", 10, limit=100, about=About("m", "evaluator chat", "id"))
        assert attempt is not None
        ledger.write_intent(attempt).result()
        ledger.settle(attempt, "answer", 5).result()
    assert read_summary(file).purposes == {"": (1, 7), "evaluator chat": (1, 5)}


def _answer(text: str) -> str:
    return json.dumps(vars(kdtool.TextAnswer("", text, "stop", 1, 1)))


def _reserve(ledger: Ledger, key: str, reserved: int) -> Attempt:
    attempt = ledger.reserve(key, reserved, limit=10**15)
    assert attempt is not None
    return attempt


def _attempt(ledger: Ledger, key: str, reserved: int) -> Attempt:
    attempt = _reserve(ledger, key, reserved)
    ledger.write_intent(attempt).result()
    return attempt
