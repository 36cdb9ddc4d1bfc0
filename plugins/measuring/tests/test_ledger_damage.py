"""A ledger that lost something after kill -9 is refused before money is spent, and mending it forgets no money."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import kdtool
import pytest
from kdtool_measuring import Ledger, check_ledger, mend_ledger, read_summary

_WORKER = """
import json, sys
from pathlib import Path
import kdtool
from kdtool_measuring import Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(10**6):
    attempt = ledger.reserve(f"key {number}", 10, limit=10**12)
    ledger.write_intent(attempt).result()
    if number % 5:
        ledger.settle(attempt, json.dumps(vars(kdtool.TextAnswer("", "x" * 500, "stop", 1, 1))), 7).result()
    print(number, flush=True)
"""
_FILE = "ledger.sqlite"


def _kill_after(file: Path, number: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", _WORKER, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(number):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a ledger whose process was killed, with its log."""
    folder = tmp_path_factory.mktemp("killed")
    _kill_after(folder / _FILE, 60)
    return folder


def _edit(file: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(file.read_bytes())
    change(content)
    file.write_bytes(content)


def _log(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def _lose_seal_and_log(file: Path) -> None:
    _log(file).unlink()
    file.with_name(file.name + ".seal").unlink()


def _damage_page(number: int) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        Ledger(file).close()  # moves the log into the file
        start = 4096 * (number - 1)
        _edit(file, lambda content: content.__setitem__(slice(start, start + 4096), b"\x5a" * 4096))

    return damage


_LOSSES: dict[str, Callable[[Path], None]] = {
    "log deleted": lambda file: _log(file).unlink(),
    "log cut": lambda file: os.truncate(_log(file), _log(file).stat().st_size // 2),
    "log flipped": lambda file: _edit(_log(file), lambda content: content.__setitem__(len(content) // 3, 7)),
    "emptied": lambda file: os.truncate(file, 0),
    "deleted": Path.unlink,
    "page 1": _damage_page(1),
    "page 3": _damage_page(3),
    "page 6": _damage_page(6),
}


@pytest.mark.parametrize("loss", _LOSSES)
def test_what_a_killed_ledger_loses_is_noticed_and_counted(killed: Path, tmp_path: Path, loss: str) -> None:
    file = Path(shutil.copytree(killed, tmp_path / "copy")) / _FILE
    before = read_summary(file)
    _LOSSES[loss](file)
    with pytest.raises(
        kdtool.StorageError, match=r"damaged: .*; expected are .*run `kdtool data mend .*ledger.sqlite`"
    ):
        check_ledger(file)
    for _ in range(2):  # looking at it changes nothing
        with pytest.raises(kdtool.StorageError, match=r"run `kdtool data mend "):
            Ledger(file)
    mended = mend_ledger(file)
    assert mended is not None
    assert loss == "deleted" or mended.damaged.exists()
    with Ledger(file) as ledger:
        change = ledger.spent + ledger.on_hold - before.spent - before.held
        assert abs(change) <= 10, "the last commit may have no seal: its request was not sent"
        attempt = ledger.reserve("next", 5, limit=10**6)
        assert attempt is not None
        ledger.write_intent(attempt).result()
    assert mend_ledger(file) is None, "it is whole"


def test_a_copy_without_log_and_seal_needs_a_statement(killed: Path, tmp_path: Path) -> None:
    file = Path(shutil.copytree(killed, tmp_path / "copy")) / _FILE
    _lose_seal_and_log(file)
    with pytest.raises(kdtool.StorageError, match="its seal is missing"):
        Ledger(file)
    with pytest.raises(kdtool.UsageError, match=r"state the part that the ledger lacks with --missing-usd"):
        mend_ledger(file)
    mended = mend_ledger(file, 400)
    assert mended is not None
    assert mended.missing == 400
    with Ledger(file) as ledger:
        assert ledger.on_hold >= 400


def test_kills_while_it_is_opened_leave_a_whole_ledger(tmp_path: Path) -> None:
    for number in range(4):
        _kill_after(tmp_path / _FILE, number)
        check_ledger(tmp_path / _FILE)


def test_an_older_seal_is_no_loss(killed: Path, tmp_path: Path) -> None:
    file = Path(shutil.copytree(killed, tmp_path / "copy")) / _FILE
    seal = file.with_name(file.name + ".seal")
    older = seal.read_bytes()
    Ledger(file).close()
    seal.write_bytes(older)
    Ledger(file).close()


def _good_row() -> tuple[str, str]:
    text = json.dumps(vars(kdtool.TextAnswer("", "text", "stop", 1, 1)))
    return text, sha256(text.encode()).hexdigest()


_TAMPERED = {
    "negative cost": "UPDATE attempt SET cost = -31000 WHERE id = 2",
    "text for a time": "UPDATE attempt SET begun = 'noon' WHERE id = 2",
    "text for commits": "UPDATE seal SET commits = 'all'",
    "text for a number": "UPDATE attempt SET cost = 'much' WHERE id = 2",
    "sums that overflow": "UPDATE attempt SET cost = 9223372036854775807",
    "largest id": "UPDATE attempt SET id = 9223372036854775807 WHERE id = 2",
    "unknown state": "UPDATE attempt SET state = 'free' WHERE id = 2",
    "state of a batch": "INSERT INTO batch VALUES ('b', '', 'lost', 0)",
    "fewer rows": "DELETE FROM attempt WHERE id = 2",
    "no table": "DROP TABLE attempt",
    "no answers": "DROP TABLE answer",
    "no column": "ALTER TABLE attempt DROP COLUMN cost",
    "trigger": "CREATE TRIGGER t BEFORE INSERT ON attempt BEGIN SELECT RAISE(ABORT, 'no'); END",
}


@pytest.mark.parametrize("change", _TAMPERED)
def test_rows_and_tables_that_others_changed_are_refused(tmp_path: Path, change: str) -> None:
    file = tmp_path / _FILE
    with Ledger(file) as ledger:
        for key in ("a", "b"):
            attempt = ledger.reserve(key, 10, limit=100)
            assert attempt is not None
            ledger.write_intent(attempt).result()
            ledger.settle(attempt, _good_row()[0], 7).result()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(_TAMPERED[change])
    for look in (Ledger, read_summary):
        with pytest.raises(kdtool.StorageError, match=r"ledger.sqlite is damaged: .*; expected are .*run `kdtool data"):
            look(file)
    assert mend_ledger(file) is not None
    with Ledger(file) as ledger:
        assert ledger.spent + ledger.on_hold == 14


@pytest.mark.parametrize("text", ["{", "[1]", '{"id": "a", "foreign": 1}', json.dumps({"id": 1, "text": None})])
def test_a_foreign_answer_with_a_matching_hash_is_refused_and_mended(tmp_path: Path, text: str) -> None:
    file = tmp_path / _FILE
    with Ledger(file), closing(sqlite3.connect(file)) as database, database:
        rows = [("good", *_good_row()), ("bad", text, sha256(text.encode()).hexdigest())]
        database.executemany("INSERT INTO answer VALUES (?, ?, ?)", rows)
    with (
        Ledger(file) as ledger,
        pytest.raises(kdtool.StorageError, match=r"'bad' is not one that kdtool wrote; expected"),
    ):
        ledger.find("bad")
    mended = mend_ledger(file)
    assert mended is not None
    assert (mended.answers, mended.missing) == (1, 0)
    with Ledger(file) as ledger:
        assert (ledger.find("bad"), ledger.find("good")) == (None, _good_row()[0])


def test_a_file_of_free_answers_is_mended_without_a_statement_on_money(tmp_path: Path) -> None:
    file = tmp_path / _FILE
    with closing(kdtool.open_answers(file)) as database:
        rows = [("good", *_good_row()), ("bad", "{", sha256(b"{").hexdigest())]
        database.executemany("INSERT INTO answer VALUES (?, ?, ?)", rows)
    mended = mend_ledger(file)
    assert mended is not None
    assert (mended.answers, mended.missing) == (1, 0)


@pytest.mark.parametrize("ending", ["", ".lock", ".spare", ".seal"])
def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"{_FILE}{ending}").mkdir()
    with pytest.raises(kdtool.StorageError, match=rf"{_FILE}{ending} is a directory, but .*; move the directory away"):
        Ledger(tmp_path / _FILE)
