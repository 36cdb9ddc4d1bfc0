"""Documents are chosen alike everywhere; values, intervals and items files say the same thing."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_measuring import Document, Item, held_out, make_measurement
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


@pytest.mark.parametrize(
    ("items", "message"),
    [([], "nothing to measure"), ([Item("x", math.nan, 1)], "on 'x'.*diverged"), ([Item("x", 1e6, 1)], "too large")],
)
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
