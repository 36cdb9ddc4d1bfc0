"""Journals: what was added is there after a kill, what is damaged is said and costs nothing else, what is outdated goes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_measuring import Journal, journal, kept_answers
from kdtool_testing import make_run


@dataclass(frozen=True)
class Kept:
    """Something to keep."""

    id: str
    text: str
    number: int = 0


RECORDS = [Kept(f"é{number}", "a\nb\ud83d" * number, number) for number in range(4)]


def write(path: Path) -> bytes:
    with journal(path, Kept, pytest.fail) as kept:
        for record in RECORDS:
            kept.add(record)
    return path.read_bytes()


def test_what_was_added_is_there_and_the_last_of_one_id_counts(tmp_path: Path) -> None:
    write(tmp_path / "kept")
    with journal(tmp_path / "kept", Kept, pytest.fail) as kept:
        assert [*kept.values()] == RECORDS
        kept.add(Kept("é1", "other"))
        assert (len(kept), kept["é1"].text, "é9" in kept, kept.get("é9")) == (4, "other", False, None)
    with journal(tmp_path / "kept", Kept, pytest.fail) as kept:
        assert [record.text for record in kept.values()] == [RECORDS[0].text, "other", *(r.text for r in RECORDS[2:])]


@given(st.data())
def test_a_journal_that_was_cut_anywhere_keeps_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("kept") / "answers.jsonl"
    content = write(path)
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    with journal(path, Kept, pytest.fail) as kept:
        assert dict(kept) == {record.id: record for record in RECORDS[:whole]}
        for record in RECORDS[whole:]:
            kept.add(record)
    assert path.read_bytes() == content
    assert {one.name for one in path.parent.iterdir()} == {path.name, ".committed-0"}


DAMAGE: Mapping[str, bytes] = {
    "no JSON": b'{"id": "x", "text\n',
    "other bytes": b'{"id": "x", "text": "\xff"}\n',
    "zeros": b"\0" * 40 + b"\n",
    "no end of nesting": b"[" * 100_000 + b"\n",
    "no object": b"[1]\n",
    "no digest": b'{"id": "x", "text": "y"}\n',
    "another digest": kdtool.seal_line({"id": "x", "text": "y"}).replace(b"x", b"z"),
    "no id": kdtool.seal_line({"text": "x"}),
    "no text as id": kdtool.seal_line({"id": 3, "text": "x"}),
    "another field": kdtool.seal_line({"id": "x", "text": "y", "tixt": "z"}),
    "nothing": b"\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("place", range(4))
def test_a_damaged_line_is_taken_out_and_said_and_costs_no_other(tmp_path: Path, damage: bytes, place: int) -> None:
    path, said = tmp_path / "kept", list[str]()
    lines = write(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:place], damage, *lines[place + 1 :], b'{"id": "half writ']))
    others = [record for record in RECORDS if record != RECORDS[place]]
    with journal(path, Kept, said.append) as kept:
        assert [*kept.values()] == others
        kept.add(RECORDS[place])
    assert said == [f"{path}: 1 line is damaged and was removed; only these records are made again"]
    with journal(path, Kept, pytest.fail) as kept:
        assert [*kept.values()] == [*others, RECORDS[place]]


def test_what_is_outdated_is_taken_out_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write(path)
    with journal(path, Kept, pytest.fail, outdated=lambda record: record.number % 2 == 0) as kept:
        assert [*kept.values()] == RECORDS[1::2]
    assert [json.loads(line)["number"] for line in path.read_text("utf-8").splitlines()] == [1, 3]


def test_a_file_that_changes_meanwhile_is_said_to(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    content = write(path)
    with journal(path, Kept, pytest.fail) as kept:
        assert isinstance(kept, Journal)
        path.write_bytes(content[:-9])
        with pytest.raises(kdtool.StorageError, match="kept changed while it was read"):
            kept["é3"]


_KILLED = """
import os, signal, sys
from pathlib import Path
import kdtool
from kdtool_measuring import kept_answers
from kdtool_testing import make_run
folder = Path(sys.argv[1])
with kept_answers(make_run(folder), folder / "answers.jsonl", again=True) as kept:
    for name in sys.argv[2]:
        kept.add(kdtool.TextAnswer(name, name, "stop", 1, 1))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_answers_have_the_same_bytes_after_a_kill(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder, before, then in ((undisturbed, "", "cabd"), (killed, "dc", "ab")):
        folder.mkdir()
        if before:
            ended = subprocess.run([sys.executable, "-c", _KILLED, str(folder), before], check=False)
            assert ended.returncode == -signal.SIGKILL
        with kept_answers(make_run(folder), folder / "answers.jsonl", again=False) as kept:
            for name in then:
                kept.add(kdtool.TextAnswer(name, name, "stop", 1, 1))
    assert (killed / "answers.jsonl").read_bytes() == (undisturbed / "answers.jsonl").read_bytes()
    assert len((killed / "answers.jsonl").read_bytes().splitlines()) == 4
