"""Steps of the balances against other formulations, invariants, and terms that are missing.

The schedule on a value: against a plain reference, by hand, what is refused, and two of them in one training.

The suite of weightings on all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, ClassVar

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing import WeightingConformance
from kdtool_torch.weightings import Confidence, OnMetric, StudentEntropy, Uncertainty, uncertainty_step

WIDE = st.one_of(st.just(0.0), st.floats(1e-300, 1e300))
Report = kdtool.TermReport
REPORTS = st.builds(Report, value=WIDE, weight=st.floats(0, 10), gradient_norm=st.one_of(st.none(), WIDE))
HISTORIES = st.integers(1, 4).flatmap(
    lambda count: st.lists(st.fixed_dictionaries({f"losses.{i}": REPORTS for i in range(count)}), min_size=1)
)


@given(st.floats(0, 20), st.floats(-3, 3), st.floats(0.001, 1))
def test_uncertainty_descends_the_paper_s_objective(value: float, s: float, rate: float) -> None:
    def objective(at: float) -> float:
        return 1 / (2 * math.exp(at)) * value + math.log(math.sqrt(math.exp(at)))  # L / 2σ² + log σ

    slope = (objective(s + 1e-5) - objective(s - 1e-5)) / 2e-5
    found = uncertainty_step({"a": s}, {"a": value}, rate, 1e6)["a"]
    assert found == pytest.approx(max(-math.log(1e6), min(math.log(1e6), s - rate * slope)), abs=1e-6)


@given(HISTORIES)
def test_factors_are_finite_and_not_negative_whatever_is_reported(history: list[Mapping[str, Report]]) -> None:
    weighting, state = Uncertainty(Uncertainty.Config()), dict[str, Any]()
    for step, terms in enumerate(history, 2):
        factors = weighting.kdtool_balance(terms, step, state)
        assert factors.keys() == terms.keys()
        assert all(0 <= factor < math.inf for factor in factors.values())


def test_a_term_that_saw_no_token_keeps_what_was_learned_of_it() -> None:
    both = {"a": kdtool.TermReport(4.0, 1.0, 2.0), "b": kdtool.TermReport(1.0, 1.0, 1.0)}
    alone = {"a": both["a"]}
    uncertainty, state = Uncertainty(Uncertainty.Config()), dict[str, Any]()
    for step in range(2, 300):
        before = uncertainty.kdtool_balance(both, step, state)
    assert uncertainty.kdtool_balance(alone, 300, state)["a"] == pytest.approx(before["a"], rel=0.1)
    assert uncertainty.kdtool_balance(both, 301, state)["b"] == pytest.approx(before["b"], rel=0.1)


def test_factors_follow_from_the_steps() -> None:
    """By hand: s = 1 after L = 41 at η = 1/20."""
    uncertainty = Uncertainty(Uncertainty.Config())
    assert uncertainty.kdtool_balance({"a": Report(41.0, 1.0)}, 2, {}) == pytest.approx({"a": math.exp(-1)})


def test_a_loss_that_comes_to_nothing_is_held_by_the_limit() -> None:
    weighting = Uncertainty(Uncertainty.Config())
    terms, state = {"a": Report(0.0, 1.0), "b": Report(1e9, 1.0)}, dict[str, Any]()
    for step in range(2, 1000):
        factors = weighting.kdtool_balance(terms, step, state)
    assert factors == pytest.approx({"a": 100, "b": 0.01})


WATCHED, CHANGED = "train.losses.kl", "train.losses.hidden"


def on_metric(**settings: Any) -> OnMetric:
    return OnMetric(OnMetric.Config(**{"watch": "kl", "change": "hidden", **settings}))


def factors(
    weighting: OnMetric, values: list[float], first: int = 2, state: dict[str, Any] | None = None
) -> list[float]:
    """Return the factor at each step behind one with these values; 1 where the weighting does not answer."""
    found, kept = [], {} if state is None else state
    for step, value in enumerate(values, first):
        terms = {WATCHED: kdtool.TermReport(value, 1.0), CHANGED: kdtool.TermReport(7.0, 1.0)}
        found.append((weighting.kdtool_balance(terms, step, kept) or {}).get(CHANGED, 1.0))
    return found


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(-5, 5), st.floats(0, 3))
def test_factors_are_what_a_plain_reference_says(values: list[float], bound: float, factor: float) -> None:
    means = list(accumulate(values, lambda mean, value: mean + 0.1 * (value - mean)))
    expected = [factor if min(means[: i + 1]) < bound else 1.0 for i in range(len(values))]
    assert factors(on_metric(below=bound, factor=factor), values) == pytest.approx(expected)


def test_values_that_are_no_numbers_leave_the_mean_as_it_is() -> None:
    weighting = on_metric(below=3.9)
    assert factors(weighting, [float("inf"), float("nan"), 4.0, 2.0]) == [1.0, 1.0, 1.0, 0.0]


def test_where_a_loss_is_missing_all_weights_stay() -> None:
    weighting = on_metric(below=3.0)
    state: dict[str, Any] = {}
    assert weighting.kdtool_balance({WATCHED: kdtool.TermReport(1.0, 1.0)}, 2, state) is None
    assert weighting.kdtool_balance({"control.losses.ce": kdtool.TermReport(1.0, 1.0)}, 3, state) is None


def test_it_names_its_losses() -> None:
    assert on_metric(below=1.0).terms == {"kl", "hidden"}


def test_a_loss_that_saw_no_token_at_a_step_changes_nothing() -> None:
    weighting, report = on_metric(below=3.0), kdtool.TermReport(1.0, 1.0)
    both = {WATCHED: report, CHANGED: report}
    state: dict[str, Any] = {}
    assert weighting.kdtool_balance(both, 2, state) == {CHANGED: 0.0}
    for missing in (WATCHED, CHANGED):
        terms = {name: report for name in both if name != missing}
        restored = json.loads(json.dumps(state, allow_nan=False))
        assert weighting.kdtool_balance(terms, 3, state) == {CHANGED: 0.0}, "its weight would come back for a step"
        assert on_metric(below=3.0).kdtool_balance(terms, 3, restored) == {CHANGED: 0.0}


class TestStudentEntropy(WeightingConformance):
    component = StudentEntropy
    entry_point = "student-entropy"
    settings: ClassVar = {"power": 0.5}
    teachers: ClassVar = (None, "logits", "top-k", "sampled")


class TestConfidence(WeightingConformance):
    component = Confidence
    entry_point = "confidence"
    settings: ClassVar = {"of": "label", "prefer": "unsure"}


class TestUncertainty(WeightingConformance):
    component = Uncertainty
    entry_point = "uncertainty"


class TestOnMetric(WeightingConformance):
    component = OnMetric
    entry_point = "on-metric"
    settings: ClassVar = {"watch": "b", "below": 0.5, "change": "b", "factor": 3.0}
