"""Documents are chosen alike everywhere; values, intervals and items files say the same thing.

Test sets are read, or refused with a reason; some of their items are chosen alike everywhere.

Journals: what was added is there after a kill, what is damaged is said and costs nothing else, what is outdated goes.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_measuring import (
    Document,
    Item,
    choose,
    held_out,
    journal,
    kept_answers,
    make_measurement,
    read_and_hash,
    records_of,
)
from kdtool_testing import make_run

SUBJECT = kdtool.Subject("student/seed 0", "student", seed=0)


def texts(count: int) -> list[kdtool.Example]:
    return [kdtool.Example(f"file-{i}", kdtool.Text(f"text {i}"), split="test") for i in range(count)]


def measure(run: kdtool.RunInfo, items: list[Item], **changes: object) -> kdtool.Measurement:
    fields = {"name": "perplexity", "unit": "per token", "higher_is_better": False, "settings": {}, "transform": "exp"}
    return make_measurement(items, run, SUBJECT, **{**fields, **changes})  # type: ignore[arg-type]


def test_the_choice_depends_on_ids_alone(tmp_path: Path) -> None:
    examples = texts(50)
    chosen = held_out(make_run(tmp_path, examples=examples), "test", most=10, characters=100)
    random.Random(0).shuffle(examples)
    again = held_out(make_run(tmp_path, examples=[*examples, *texts(51)[50:]]), "test", most=10, characters=100)
    assert len(chosen) == 10
    assert len(set(chosen) & set(again)) >= 9
    assert {document.id for document in chosen} != {f"file-{i}" for i in range(10)}


def test_every_body_is_a_text_and_blank_ones_are_left_out(tmp_path: Path) -> None:
    examples = [
        kdtool.Example("a", kdtool.Completion("ab", "cdef"), split="test"),
        kdtool.Example("b", kdtool.Messages((("user", "hi"), ("assistant", "ho"))), split="test"),
        kdtool.Example("c", kdtool.Text(" \n"), split="test"),
        kdtool.Example("d", kdtool.Text("train"), split="train"),
        kdtool.Example("a", kdtool.Text("a second corpus"), split="test"),
    ]
    found = held_out(make_run(tmp_path, examples=examples), "test", most=9, characters=5)
    assert sorted(found, key=lambda document: document.id) == [
        Document("a", "abcde"),
        Document("a#2", "a sec"),
        Document("b", "hi\nho"),
    ]


def test_items_hold_what_the_value_is_made_of(tmp_path: Path) -> None:
    items = [Item("ä/b", 30.0, 10.0), Item("c", 10.0, 10.0)]
    found = measure(make_run(tmp_path), items)
    assert found.value == pytest.approx(math.exp(2.0))
    assert found.low == 1.0  # no perplexity is below
    assert found.high == pytest.approx(math.exp(2.0 + 12.7062), rel=1e-4)  # Student's t of one degree of freedom
    assert found.items is not None
    assert found.items.parent == tmp_path
    rows = [json.loads(line) for line in found.items.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"item": item.item, "sum": item.sum, "weight": item.weight} for item in items]


def test_intervals_hold_the_truth_about_as_often_as_they_say(tmp_path: Path) -> None:
    generator, held, run = random.Random(1), 0, make_run(tmp_path)
    for _ in range(200):
        values = [generator.gauss(3.0, 1.0) for _ in range(60)]
        found = measure(run, [Item(str(i), value, 1.0) for i, value in enumerate(values)], transform="identity")
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 3.0 <= found.high
    assert 0.89 <= held / 200 <= 0.99


@given(st.lists(st.tuples(st.floats(0, 1e3), st.sampled_from([0.0, 1.0, 7.0])), min_size=1, max_size=20))
def test_the_value_lies_within_its_interval_or_at_its_edge(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[float, float]]
) -> None:
    run = make_run(tmp_path_factory.mktemp("run"))
    items = [Item(str(i), total * (weight > 0), weight) for i, (total, weight) in enumerate(pairs)]
    if not any(weight for _, weight in pairs):
        with pytest.raises(kdtool.PluginError, match="all weigh 0"):
            measure(run, items, transform="identity")
        return
    found = measure(run, items, transform="identity")
    if sum(item.weight > 0 for item in items) == 1:
        assert found.low is None
        assert found.high is None
    else:
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.high


@pytest.mark.parametrize(("items", "message"), [([], "nothing to measure"), ([Item("x", 1e6, 1)], "too large")])
def test_what_cannot_be_measured_is_an_error_with_its_name(tmp_path: Path, items: list[Item], message: str) -> None:
    with pytest.raises(kdtool.PluginError, match=f"perplexity of student/seed 0.*{message}"):
        measure(make_run(tmp_path), items)


@pytest.mark.parametrize(
    ("passed", "count", "low", "high"),
    [(0, 164, 0.0, 0.02289), (164, 164, 0.97711, 1.0), (10, 20, 0.29930, 0.70070)],  # statsmodels, proportion_confint
)
def test_a_share_that_passed_has_an_interval_even_of_none(
    tmp_path: Path, passed: int, count: int, low: float, high: float
) -> None:
    items = [Item(str(number), float(number < passed), 1.0) for number in range(count)]
    found = measure(make_run(tmp_path), items, unit="fraction", transform="identity")
    assert found.low == pytest.approx(low, abs=1e-5)
    assert found.high == pytest.approx(high, abs=1e-5)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0.0, 0.05873), (1.0, 0.94127, 1.0), (0.25, 0.15872, 0.37064)])
def test_a_share_that_all_documents_have_is_no_certainty(tmp_path: Path, share: float, low: float, high: float) -> None:
    items = [Item(str(number), 4 * share, 4.0) for number in range(64)] + [Item("without a line", 0.0, 0.0)]
    found = measure(make_run(tmp_path), items, unit="fraction", transform="identity")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


class Named(NamedTuple):
    id: str


@given(st.lists(st.integers(), unique=True, max_size=30), st.integers(1, 40))
def test_the_choice_of_items_keeps_their_order_and_depends_on_ids_alone(numbers: list[int], most: int) -> None:
    items = [Named(str(number)) for number in numbers]
    found = choose(items, most)
    assert len(found) == min(most, len(items))
    assert [item for item in items if item in found] == list(found)
    assert {item.id for item in choose(items[::-1], most)} == {item.id for item in found}
    assert choose(items, None) == items


def test_files_are_read_packed_or_not(tmp_path: Path) -> None:
    content = '\ufeff{"a": "x\u2028y"}\r\n\n{"a": 2, "b": 3}\n'.encode()
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    assert read_and_hash(plain, "key") == read_and_hash(packed, "key")
    found = list(records_of(packed, "key", {"a": "text or number"}, "a file"))
    assert found == [(f"key: {packed}, line 1", {"a": "x\u2028y"}), (f"key: {packed}, line 3", {"a": 2, "b": 3})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "key: .* contains no records; expected a file"),
        (b"{}\n", "line 1: not a record with a; expected a file"),
        (b'{"a": "1"}\n{"a": 1}', "line 2: a is 1, not a text; expected a file"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b"\x1f\x8b\x08", "key: .* cannot be read"),
        ('{"a": "café"}'.encode("cp1252"), "key: .* is not UTF-8 .*; save it in UTF-8"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(kdtool.UsageError, match=message):
        list(records_of(file, "key", {"a": "text"}, "a file"))


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
    "zeros": b"\0" * 40 + b"\n",
    "no end of nesting": b"[" * 100_000 + b"\n",
    "another digest": kdtool.seal_line({"id": "x", "text": "y"}).replace(b"x", b"z"),
    "no id": kdtool.seal_line({"text": "x"}),
    "another field": kdtool.seal_line({"id": "x", "text": "y", "tixt": "z"}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("place", [0, 3])
def test_a_damaged_line_is_taken_out_and_said_and_costs_no_other(tmp_path: Path, damage: bytes, place: int) -> None:
    path, said = tmp_path / "kept", list[str]()
    lines = write(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:place], damage, *lines[place + 1 :], b'{"id": "half writ']))
    others = [record for record in RECORDS if record != RECORDS[place]]
    with journal(path, Kept, said.append) as kept:
        assert [*kept.values()] == others
        kept.add(RECORDS[place])
    assert said == [f"{path}: removed 1 damaged line; only these records are made again"]
    with journal(path, Kept, pytest.fail) as kept:
        assert [*kept.values()] == [*others, RECORDS[place]]


def test_what_is_outdated_is_taken_out_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write(path)
    with journal(path, Kept, pytest.fail, outdated=lambda record: record.number % 2 == 0) as kept:
        assert [*kept.values()] == RECORDS[1::2]
    assert [json.loads(line)["number"] for line in path.read_text("utf-8").splitlines()] == [1, 3]


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
