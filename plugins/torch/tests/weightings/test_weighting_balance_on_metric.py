"""The schedule on a value: against a plain reference, by hand, what is refused, and two of them in one training."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

import kdtool
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_torch.weightings import OnMetric

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


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=30),
    st.floats(-5, 5), st.booleans(), st.floats(0, 3), st.integers(1, 6), st.floats(0, 0.99),
)  # fmt: skip
def test_factors_are_what_a_plain_reference_says(
    values: list[float], bound: float, below: bool, factor: float, over: int, smoothing: float
) -> None:
    means = list(accumulate(values, lambda mean, value: mean + (1 - smoothing) * (value - mean)))
    past = [mean < bound if below else mean > bound for mean in means]
    begun = past.index(True) if True in past else len(values)
    expected = [1 + min(max(i - begun + 1, 0), over) / over * (factor - 1) for i in range(len(values))]
    bounds = {"below": bound} if below else {"above": bound}
    weighting = on_metric(**bounds, factor=factor, over=over, smoothing=smoothing)
    assert factors(weighting, values) == pytest.approx(expected)


def test_values_that_are_no_numbers_leave_the_mean_as_it_is() -> None:
    weighting = on_metric(above=3.0, smoothing=0.0)
    assert factors(weighting, [float("inf"), float("nan"), 2.0, 4.0]) == [1.0, 1.0, 1.0, 0.0]


def test_where_a_loss_is_missing_all_weights_stay() -> None:
    weighting = on_metric(below=3.0)
    state: dict[str, Any] = {}
    assert weighting.kdtool_balance({WATCHED: kdtool.TermReport(1.0, 1.0)}, 2, state) is None
    assert weighting.kdtool_balance({"control.losses.ce": kdtool.TermReport(1.0, 1.0)}, 3, state) is None


def test_it_names_its_losses_and_wants_one_bound() -> None:
    assert on_metric(below=1.0).terms == {"kl", "hidden"}
    for bounds in ({}, {"below": 1.0, "above": 2.0}):
        with pytest.raises(pydantic.ValidationError, match="one bound: `below` or `above`"):
            on_metric(**bounds)


def test_a_loss_that_saw_no_token_at_a_step_changes_nothing() -> None:
    weighting, report = on_metric(below=3.0, smoothing=0.0), kdtool.TermReport(1.0, 1.0)
    both = {WATCHED: report, CHANGED: report}
    state: dict[str, Any] = {}
    assert weighting.kdtool_balance(both, 2, state) == {CHANGED: 0.0}
    for missing in (WATCHED, CHANGED):
        terms = {name: report for name in both if name != missing}
        restored = json.loads(json.dumps(state, allow_nan=False))
        assert weighting.kdtool_balance(terms, 3, state) == {CHANGED: 0.0}, "its weight would come back for a step"
        assert on_metric(below=3.0, smoothing=0.0).kdtool_balance(terms, 3, restored) == {CHANGED: 0.0}
