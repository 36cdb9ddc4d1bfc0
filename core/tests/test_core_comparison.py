"""Comparison of arms: the interval is right on simulated arms, and pairs are never torn."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool import Measurement, Subject
from kdtool._results.comparisons import compare, compare_all, interval, side_by_side, verdict


def _measurement(
    path: Path, values: list[tuple[float, float]], transform: Literal["identity", "exp"] = "identity"
) -> Measurement:
    lines = [json.dumps({"item": str(i), "sum": s, "weight": w}) for i, (s, w) in enumerate(values)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Measurement("loss", path.stem, "nats", 0.0, len(values), False, items=path, transform=transform)


def _pair(folder: Path, generator: random.Random, shift: float, seed: int) -> tuple[Measurement, Measurement]:
    hard = [generator.gauss(3, 1) for _ in range(40)]
    student = [(value + shift + generator.gauss(0, 0.1), 1.0) for value in hard]
    control = [(value + generator.gauss(0, 0.1), 1.0) for value in hard]
    return (
        _measurement(folder / f"s{seed}.jsonl", student),
        _measurement(folder / f"c{seed}.jsonl", control),
    )


def test_paired_interval_sees_a_difference_far_below_the_spread_of_items(tmp_path: Path) -> None:
    generator = random.Random(0)
    found = compare("student", "control", [_pair(tmp_path, generator, -0.2, seed) for seed in range(3)])
    assert found is not None
    assert found.verdict == "better"
    assert -0.3 < found.low < found.difference < found.high < -0.1
    assert (found.seeds, found.items) == (3, 40)
    assert "better in loss" in verdict([found])


def test_without_a_comparison_the_verdict_names_the_reason() -> None:
    assert "no evaluator measured student and control" in verdict([])
    assert verdict([], has_control=False).endswith("the run trained no control; add `control: true`.")


def test_no_difference_is_said_in_words_and_worse_is_worse(tmp_path: Path) -> None:
    generator = random.Random(1)
    none = compare("student", "control", [_pair(tmp_path, generator, 0.0, seed) for seed in range(3)])
    worse = compare("student", "control-time", [_pair(tmp_path, generator, 0.3, seed) for seed in range(3)])
    assert none is not None
    assert worse is not None
    assert none.verdict == "no evidence of a difference"
    assert worse.verdict == "worse"
    text = verdict([none, worse])
    assert "not shown to differ in loss" in text
    assert "worse in loss" in text


def test_the_verdict_has_the_gain_over_the_base(tmp_path: Path) -> None:
    generator = random.Random(1)
    base = compare("student", "base", [_pair(tmp_path, generator, -0.3, seed) for seed in range(3)])
    control = compare("student", "control", [_pair(tmp_path, generator, 0.0, seed) for seed in range(3)])
    assert base is not None
    assert control is not None
    gain = "Against itself before training, the student is better in loss ("
    assert gain in verdict([base], has_control=False)
    assert gain in verdict([base, control])
    assert "before training" not in verdict([control])


def test_perplexities_are_compared_as_ratios(tmp_path: Path) -> None:
    student = _measurement(tmp_path / "s.jsonl", [(10.0, 10.0), (30.0, 20.0)], "exp")
    control = _measurement(tmp_path / "c.jsonl", [(20.0, 10.0), (50.0, 20.0)], "exp")
    found = compare("student", "control", [(student, control)])
    assert found is not None
    assert found.relative
    assert found.difference == pytest.approx(2.718281828 ** (40 / 30 - 70 / 30) - 1)


def test_a_student_with_twice_its_teacher_s_perplexity_is_called_weak_and_no_other(tmp_path: Path) -> None:
    arms = {"student": 3.0, "control": 3.1, "teacher": 2.0}
    found = {
        arm: _measurement(tmp_path / f"{arm}.jsonl", [(nats + 0.01 * i, 1.0) for i in range(8)], "exp")
        for arm, nats in arms.items()
    }
    compared = compare("student", "teacher", [(found["student"], found["teacher"])], of_teacher=True)
    against_control = compare("student", "control", [(found["student"], found["control"])])
    assert compared is not None
    assert against_control is not None
    said = "In absolute terms the student is weak: its loss is 20.8, that of teacher 7.652."
    assert said in verdict([compared])
    assert said in verdict([against_control, compared])
    near = dataclasses.replace(compared, difference=0.9)
    far_control = dataclasses.replace(compared, against="control")
    assert "weak" not in verdict([against_control, near, far_control])


def test_a_seed_that_diverged_leaves_an_interval_without_end(tmp_path: Path) -> None:
    nats = {"s0": 120.0, "s1": 5.0, "c0": 5.0, "c1": 5.1}
    found = {
        name: _measurement(tmp_path / f"{name}.jsonl", [(each - 0.1, 1.0), (each + 0.1, 1.0)], "exp")
        for name, each in nats.items()
    }
    compared = compare("student", "control", [(found["s0"], found["c0"]), (found["s1"], found["c1"])])
    assert compared is not None
    assert (compared.low, compared.high, compared.verdict) == (-1.0, inf, "no evidence of a difference")
    assert "95 % interval -100.0% to +∞" in verdict([compared])
    bounds = interval([found["s0"], found["s1"]])
    assert bounds is not None
    assert bounds[0] == pytest.approx(0, abs=1e-200)
    assert bounds[1] == inf


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
    for turn, subject in enumerate(subjects):
        _measurement(folder / f"{subject.name}.jsonl", [*values[turn:], *values[:turn]], transform)
    measured = [
        Measurement("m", one.name, unit, 0.0, 4, True, items=folder / f"{one.name}.jsonl", transform=transform)
        for one in subjects
    ]
    compared, _ = compare_all(measured, subjects, {one.name: one.name[:-1] for one in subjects})
    for one in compared:
        assert one.low <= one.high
        assert verdict(compared)
    interval(measured[:2])


def test_arms_without_shared_items_are_not_compared(tmp_path: Path) -> None:
    one = _measurement(tmp_path / "one.jsonl", [(1.0, 1.0)])
    other = _measurement(tmp_path / "other.jsonl", [(1.0, 1.0)])
    (tmp_path / "other.jsonl").write_text('{"item": "else", "sum": 1, "weight": 1}\n', encoding="utf-8")
    assert compare("student", "control", [(one, other)]) is None


def _scored(folder: Path, subject: str, solved: Sequence[float], **changes: Any) -> Measurement:
    found = _measurement(folder / f"{subject}.jsonl", [(value, 1.0) for value in solved])
    about = {"name": "pass@1", "subject": subject, "unit": "fraction", "higher_is_better": True, **changes}
    return dataclasses.replace(found, **about)


def test_all_arms_are_compared_and_the_teachers_share_is_given_where_it_means_something(tmp_path: Path) -> None:
    solved = {
        "teacher": [1, 1, 1, 0] * 5,
        "student": [1, 1, 0, 0] * 5,
        "control": [1, 0, 0, 0] * 5,
        "student-q4": [1, 0, 1, 0] * 5,
    }
    roles = {"teacher": "teacher", "student": "student", "control": "control", "student-q4": "artifact"}
    subjects = [Subject(name, role, None, None if role == "teacher" else 0) for name, role in roles.items()]  # type: ignore[arg-type]
    measured = [_scored(tmp_path, name, values) for name, values in solved.items()]
    found, notes = compare_all(measured, subjects, {name: name for name in roles})
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
    assert "66.7% of teacher in pass@1" in verdict(found)
    lower = [dataclasses.replace(m, unit="nats", higher_is_better=False) for m in measured]
    assert all(c.share is None for c in compare_all(lower, subjects, {name: name for name in roles})[0])


def test_what_was_measured_differently_is_not_compared_and_that_is_said(tmp_path: Path) -> None:
    subjects = [Subject("student", "student", None, 0), Subject("control", "control", None, 0)]
    one = _scored(tmp_path, "student", [1.0, 0.0], settings={"stop": "a", "shots": "0"})
    other = _scored(tmp_path, "control", [1.0, 1.0], settings={"stop": "b", "shots": "0"})
    found, notes = compare_all([one, other], subjects, {"student": "student", "control": "control"})
    assert not found
    assert notes == ["pass@1: student and control are not compared, they were measured in different ways: stop"]


def test_arms_that_solve_the_same_tasks_may_still_differ_on_others(tmp_path: Path) -> None:
    none = [_scored(tmp_path, name, [0.0] * 20) for name in ("student", "control")]
    found = compare("student", "control", [(none[0], none[1])])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-0.168, 0.168), abs=1e-3)  # 1 - 0.025 ** (1 / 20)


@pytest.mark.parametrize(
    ("solved", "of", "verdict"),
    [(2, 2, "no evidence of a difference"), (3, 3, "no evidence of a difference"), (5, 5, "no evidence of a difference"),
     (4, 5, "no evidence of a difference"), (6, 6, "better"), (6, 9, "better"),
     (5, 50, "no evidence of a difference"), (5, 164, "no evidence of a difference"), (6, 164, "better")],
)  # fmt: skip
def test_few_tasks_that_all_go_one_way_show_no_more_than_the_exact_test(
    tmp_path: Path, solved: int, of: int, verdict: str
) -> None:
    """The sign test has p = 2 · 0.5 ** solved, where the control solves none: below 0.05 from six on."""
    student = _scored(tmp_path, "student", [1.0] * solved + [0.0] * (of - solved))
    control = _scored(tmp_path, "control", [0.0] * of)
    found = compare("student", "control", [(student, control)])
    assert found is not None
    assert found.verdict == verdict
    assert -1 <= found.low < found.difference <= found.high <= 1
    back = compare("control", "student", [(control, student)])
    assert back is not None
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(
    ("values", "seeds", "verdict"),
    [([1.0] * 5, 3, "no evidence of a difference"), ([1.0] * 6, 3, "better"),
     ([0.9, 1.0, 1.0, 0.8, 0.9], 1, "no evidence of a difference"), ([0.9, 1.0, 1.0, 0.8, 0.9, 0.7], 1, "better"),
     ([0.9, 1.0, 1.0, 0.8, 0.9], 3, "no evidence of a difference")],
)  # fmt: skip
def test_more_seeds_and_samples_of_few_tasks_are_no_more_tasks(
    tmp_path: Path, values: list[float], seeds: int, verdict: str
) -> None:
    student = _scored(tmp_path, "student", values + [0.0] * (164 - len(values)))
    control = _scored(tmp_path, "control", [0.0] * 164)
    found = compare("student", "control", [(student, control)] * seeds)
    assert found is not None
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("known", "seeds", "verdict"),
    [(4, 1, "no evidence of a difference"), (5, 1, "no evidence of a difference"), (5, 3, "no evidence of a difference"),
     (6, 1, "better"), (6, 3, "better")],
)  # fmt: skip
def test_few_documents_of_many_in_which_an_arm_is_right_at_all_are_few(
    tmp_path: Path, known: int, seeds: int, verdict: str
) -> None:
    """Lines completed in so many of 64 documents of four lines each, and none by the control."""
    student = [(1.0 + (i % 2), 4.0) for i in range(known)] + [(0.0, 4.0)] * (64 - known)
    pair = [
        dataclasses.replace(_measurement(tmp_path / f"{name}.jsonl", items), unit="fraction", higher_is_better=True)
        for name, items in (("s", student), ("c", [(0.0, 4.0)] * 64))
    ]
    found = compare("student", "control", [(pair[0], pair[1])] * seeds)
    assert found is not None
    assert found.verdict == verdict


def test_shares_that_are_all_alike_are_no_certainty(tmp_path: Path) -> None:
    alike = [_scored(tmp_path, name, [value] * 7) for name, value in (("student", 0.3), ("control", 0.1))]
    found = compare("student", "control", [(alike[0], alike[1])])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.2 - 1.2 * 0.4096, 0.2 + 1.2 * 0.4096), abs=1e-4)
    assert interval(alike[:1]) is None
    of_teacher = compare("student", "teacher", [(alike[0], alike[0])], of_teacher=True)
    assert of_teacher is not None
    assert of_teacher.share == (1.0, None, None)


@pytest.mark.parametrize(("documents", "verdict"), [(5, "no evidence of a difference"), (6, "better")])
def test_documents_of_many_tokens_differ_where_six_say_so(documents: int, verdict: str, tmp_path: Path) -> None:
    """All are better by alike: of five, one way in sixteen is as clear."""
    right = [(610.0 - 17 * i, 1000.0) for i in range(documents)]
    found = compare("student", "control", [(
        dataclasses.replace(_measurement(tmp_path / "s.jsonl", right), unit="fraction", higher_is_better=True),
        dataclasses.replace(_measurement(tmp_path / "c.jsonl", [(n - 50 + i, w) for i, (n, w) in enumerate(right)]),
                            unit="fraction", higher_is_better=True),
    )])  # fmt: skip
    assert found is not None
    assert found.high - found.difference < 0.01
    assert found.verdict == verdict


def test_one_item_or_one_that_has_all_the_weight_is_no_interval(tmp_path: Path) -> None:
    one = _measurement(tmp_path / "one.jsonl", [(1.0, 1.0)])
    heavy = _measurement(tmp_path / "heavy.jsonl", [(1.0, 1.0), (0.0, 0.0)])
    assert compare("student", "control", [(one, one)]) is None
    assert compare("student", "control", [(heavy, heavy)]) is None
    assert interval([one]) is None


def test_a_measurement_of_one_item_is_named_and_not_judged(tmp_path: Path) -> None:
    subjects = [Subject("student", "student", None, 0), Subject("control", "control", None, 0)]
    measured = [_scored(tmp_path, subject.name, [1.0]) for subject in subjects]
    found, notes = compare_all(measured, subjects, {subject.name: subject.name for subject in subjects})
    assert notes == ["pass@1: student and control are not compared, fewer than two items in common count"]
    assert "no evaluator measured student and control on the same two items" in verdict(found)


def test_the_verdict_says_how_many_comparisons_were_made(tmp_path: Path) -> None:
    generator = random.Random(3)
    found = compare("student", "control", [_pair(tmp_path, generator, -0.2, 0)])
    assert found is not None
    assert "comparisons" not in verdict([found])
    six = [dataclasses.replace(found, measurement=f"loss {i}") for i in range(6)]
    said = "These are 6 comparisons at the 5 % level each: without any difference, up to 26% of runs would show one."
    assert said in verdict(six)
    assert said in side_by_side(six)
