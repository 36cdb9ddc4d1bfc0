"""Comparison of arms: the interval is right on simulated arms, and pairs are never torn."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool import Comparison, Measurement, Subject
from kdtool._contract.evaluation import shorten
from kdtool._results.comparisons import compare, compare_all, interval, side_by_side, verdict

Items = Sequence[tuple[float, float]]
ALIKE = "no evidence of a difference"
ARMS = [Subject("student", "student", None, 0), Subject("control", "control", None, 0)]


def _measured(folder: Path, subject: str, items: Items, **fields: Any) -> Measurement:
    path = folder / f"{subject}.jsonl"
    lines = [json.dumps({"item": str(i), "sum": s, "weight": w}) for i, (s, w) in enumerate(items)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    about = {"name": "loss", "unit": "nats", "higher_is_better": False, **fields}
    return Measurement(subject=subject, value=0.0, n=len(items), items=path, **about)


PASSES: dict[str, Any] = {"name": "pass@1", "unit": "fraction", "higher_is_better": True}


def _even(*values: float) -> Items:
    return [(value, 1.0) for value in values]


def _compared(*pairs: tuple[Measurement, Measurement], against: str = "control", **settings: Any) -> Comparison:
    found = compare("student", against, pairs, **settings)
    assert found is not None
    return found


def _shifted(folder: Path, seed: int, shift: float, against: str = "control", seeds: int = 3) -> Comparison:
    """Compare arms whose losses of 40 documents differ by `shift`."""
    generator, pairs = random.Random(seed), []
    for number in range(seeds):
        hard = [generator.gauss(3, 1) for _ in range(40)]
        student = _even(*(value + shift + generator.gauss(0, 0.1) for value in hard))
        control = _even(*(value + generator.gauss(0, 0.1) for value in hard))
        pairs.append((_measured(folder, f"s{number}", student), _measured(folder, f"c{number}", control)))
    return _compared(*pairs, against=against)


def test_paired_interval_sees_a_difference_far_below_the_spread_of_items(tmp_path: Path) -> None:
    found = _shifted(tmp_path, 0, -0.2)
    assert found.verdict == "better"
    assert -0.3 < found.low < found.difference < found.high < -0.1
    assert (found.seeds, found.items) == (3, 40)
    assert "better in loss" in verdict([found])


def test_the_verdict_has_the_reason_all_arms_and_the_gain_over_the_base(tmp_path: Path) -> None:
    assert "no evaluator measured student and control" in verdict([])
    assert verdict([], has_control=False).endswith("the run trained no control; add `control: true`.")
    none, worse = _shifted(tmp_path, 1, 0.0), _shifted(tmp_path, 1, 0.3, "control-time")
    assert (none.verdict, worse.verdict) == (ALIKE, "worse")
    text = verdict([none, worse])
    assert "not shown to differ in loss" in text
    assert "worse in loss" in text
    base = _shifted(tmp_path, 1, -0.3, "base")
    gain = "Against itself before training, the student is better in loss ("
    assert gain in verdict([base], has_control=False)
    assert gain in verdict([base, none])
    assert "before training" not in verdict([none])


def test_perplexities_are_compared_as_ratios(tmp_path: Path) -> None:
    student = _measured(tmp_path, "s", [(10.0, 10.0), (30.0, 20.0)], transform="exp")
    control = _measured(tmp_path, "c", [(20.0, 10.0), (50.0, 20.0)], transform="exp")
    found = _compared((student, control))
    assert found.relative
    assert found.difference == pytest.approx(2.718281828 ** (40 / 30 - 70 / 30) - 1)


def test_a_student_with_twice_its_teacher_s_perplexity_is_called_weak_and_no_other(tmp_path: Path) -> None:
    student, control, teacher = (
        _measured(tmp_path, arm, _even(*(nats + 0.01 * i for i in range(12))), transform="exp")
        for arm, nats in (("student", 3.0), ("control", 3.1), ("teacher", 2.0))
    )
    compared = _compared((student, teacher), against="teacher", of_teacher=True)
    against_control = _compared((student, control))
    said = "In absolute terms the student is weak: its loss is 21.22, that of teacher 7.807."
    assert said in verdict([compared])
    assert said in verdict([against_control, compared])
    near = dataclasses.replace(compared, difference=0.9)
    far_control = dataclasses.replace(compared, against="control")
    assert "weak" not in verdict([against_control, near, far_control])


@given(
    st.lists(st.tuples(st.floats(-1e30, 1e30), st.just(0.0) | st.floats(1e-9, 1e9)), min_size=4, max_size=4),
    st.sampled_from(["identity", "exp"]),
    st.sampled_from(["nats", "fraction"]),
)
def test_no_finite_numbers_end_a_comparison(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[float, float]],
    transform: Literal["identity", "exp"],
    unit: str,
) -> None:
    folder = tmp_path_factory.mktemp("wild")
    subjects = [Subject(f"{arm}{seed}", arm, None, seed) for arm in ("teacher", "student") for seed in (0, 1)]
    about = {"transform": transform, "unit": unit, "higher_is_better": True}
    measured = [
        _measured(folder, one.name, [*values[turn:], *values[:turn]], **about) for turn, one in enumerate(subjects)
    ]
    compared, _ = compare_all(measured, subjects, {one.name: one.name[:-1] for one in subjects})
    for one in compared:
        assert one.low <= one.high
        assert verdict(compared)
    interval(measured[:2])


def test_all_arms_are_compared_and_the_teachers_share_is_given_where_it_means_something(tmp_path: Path) -> None:
    solved = {
        "teacher": [1, 1, 1, 0] * 5,
        "student": [1, 1, 0, 0] * 5,
        "control": [1, 0, 0, 0] * 5,
        "student-q4": [1, 0, 1, 0] * 5,
    }
    artifact = Subject("student-q4", "artifact", None, 0)
    subjects = [Subject("teacher", "teacher", None, None), *ARMS, artifact]
    measured = [_measured(tmp_path, name, _even(*values), **PASSES) for name, values in solved.items()]
    found, notes = compare_all(measured, subjects, {name: name for name in solved})
    assert [(c.arm, c.against) for c in found] == [
        ("student", "control"), ("student-q4", "student"), ("student-q4", "control"), ("student-q4", "teacher"),
        ("student", "teacher"), ("control", "teacher"),
    ]  # fmt: skip
    assert not notes
    shares = {c.arm: c.share for c in found if c.share is not None}
    assert shares.keys() == {"student-q4", "student", "control"}
    ratio, low, high = shares["student"]
    assert ratio == pytest.approx(2 / 3)
    assert low is not None
    assert high is not None
    assert low < ratio < high < 1
    assert "67 % (42–99) of teacher in pass@1" in verdict(found)
    lower = [dataclasses.replace(m, unit="nats", higher_is_better=False) for m in measured]
    assert all(c.share is None for c in compare_all(lower, subjects, {name: name for name in solved})[0])


def test_what_was_measured_differently_or_of_one_item_is_named_and_not_compared(tmp_path: Path) -> None:
    names = {arm.name: arm.name for arm in ARMS}
    one = _measured(tmp_path, "student", _even(1, 0), **PASSES, settings={"stop": "a", "shots": "0"})
    other = _measured(tmp_path, "control", _even(1, 1), **PASSES, settings={"stop": "b", "shots": "0"})
    notes = ["pass@1: student and control are not compared, they were measured in different ways: stop"]
    assert compare_all([one, other], ARMS, names) == ([], notes)
    found, notes = compare_all([_measured(tmp_path, name, _even(1), **PASSES) for name in names], ARMS, names)
    assert notes == ["pass@1: student and control are not compared, fewer than two items in common count"]
    assert "no evaluator measured student and control on the same two items" in verdict(found)


def test_one_item_one_with_all_the_weight_or_none_in_common_is_no_interval(tmp_path: Path) -> None:
    one = _measured(tmp_path, "one", _even(1))
    heavy = _measured(tmp_path, "heavy", [(1.0, 1.0), (0.0, 0.0)])
    other = _measured(tmp_path, "other", _even(1, 1))
    assert other.items is not None
    other.items.write_text('{"item": "a", "sum": 1, "weight": 1}\n{"item": "b", "sum": 1, "weight": 1}\n', "utf-8")
    for pair in ((one, one), (heavy, heavy), (_measured(tmp_path, "two", _even(1, 2)), other)):
        assert compare("student", "control", [pair]) is None
    assert interval([one]) is None


def test_tasks_and_shares_that_are_all_alike_are_no_certainty(tmp_path: Path) -> None:
    none = [_measured(tmp_path, name, _even(*[0.0] * 20), **PASSES) for name in ("student", "control")]
    found = _compared((none[0], none[1]))
    assert (found.low, found.high) == pytest.approx((-0.168, 0.168), abs=1e-3)  # 1 - 0.025 ** (1 / 20)
    alike = [_measured(tmp_path, name, _even(*[value] * 7), **PASSES) for name, value in (("a", 0.3), ("b", 0.1))]
    found = _compared((alike[0], alike[1]))
    assert (found.low, found.high) == pytest.approx((0.2 - 1.2 * 0.4096, 0.2 + 1.2 * 0.4096), abs=1e-4)
    assert interval(alike[:1]) is None
    assert _compared((alike[0], alike[0]), against="teacher", of_teacher=True).share == (1.0, None, None)


def _solved(solved: Sequence[float], of: int) -> tuple[Items, Items]:
    """Tasks of which the student solves some, and the control none."""
    return _even(*solved, *[0.0] * (of - len(solved))), _even(*[0.0] * of)


def _lines(known: int) -> tuple[Items, Items]:
    """Documents of four lines, in some of which the student completes lines; the control completes none."""
    return [(1.0 + i % 2, 4.0) for i in range(known)] + [(0.0, 4.0)] * (64 - known), [(0.0, 4.0)] * 64


def _tokens(documents: int) -> tuple[Items, Items]:
    """Documents of a thousand tokens, in all of which the student is better by alike."""
    right = [(610.0 - 17 * i, 1000.0) for i in range(documents)]
    return right, [(n - 50 + i, w) for i, (n, w) in enumerate(right)]


SAMPLED = [0.9, 1.0, 1.0, 0.8, 0.9]


@pytest.mark.parametrize(
    ("items", "seeds", "verdict"),
    [
        (_solved([1.0] * 4, 5), 1, ALIKE), (_solved([1.0] * 5, 5), 1, ALIKE), (_solved([1.0] * 11, 11), 1, ALIKE),
        (_solved([1.0] * 12, 12), 1, "better"), (_solved([1.0] * 6, 12), 1, "better"),
        (_solved([1.0] * 5, 164), 1, ALIKE), (_solved([1.0] * 6, 164), 1, "better"),
        (_solved([1.0] * 5, 164), 3, ALIKE), (_solved([1.0] * 6, 164), 3, "better"), (_solved(SAMPLED, 164), 1, ALIKE),
        (_solved([*SAMPLED, 0.7], 164), 1, "better"), (_solved(SAMPLED, 164), 3, ALIKE),
        (_lines(5), 1, ALIKE), (_lines(5), 3, ALIKE), (_lines(6), 1, "better"), (_lines(6), 3, "better"),
        (_tokens(11), 1, ALIKE), (_tokens(12), 1, "better"),
    ],
)  # fmt: skip
def test_few_tasks_that_all_go_one_way_show_no_more_than_the_exact_test(
    tmp_path: Path, items: tuple[Items, Items], seeds: int, verdict: str
) -> None:
    """The sign test has p = 2 · 0.5 ** solved: below 0.05 from six on. More seeds and samples are no more tasks.

    Under twelve items nothing is judged, and the words say so.
    """
    student, control = (_measured(tmp_path, name, each, **PASSES) for name, each in zip("sc", items, strict=True))
    found = _compared(*[(student, control)] * seeds)
    assert found.verdict == verdict
    assert found.outcome == (verdict if found.items >= 12 else "too few items")
    assert -1 <= found.low < found.difference <= found.high <= 1
    many = [dataclasses.replace(found, arm=arm, against=against) for arm, against in ("ab", "ac", "bc")]
    names = ": a better than b and c in pass@1; b better than c in pass@1"
    shown = f"3 of 3 pairs shown to differ{names}" if verdict == "better" else "0 of 3 pairs shown to differ"
    assert shorten(many, trained=False) == shown
    back = compare("control", "student", [(control, student)] * seeds)
    assert back is not None
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_the_verdict_says_how_many_comparisons_were_made(tmp_path: Path) -> None:
    found = _shifted(tmp_path, 3, -0.2, seeds=1)
    assert "comparisons" not in verdict([found])
    six = [dataclasses.replace(found, measurement=f"loss {i}") for i in range(6)]
    said = "These are 6 comparisons at the 5 % level each: without any difference, up to 26 % of runs would show one."
    assert said in verdict(six)
    assert said in side_by_side(six)
