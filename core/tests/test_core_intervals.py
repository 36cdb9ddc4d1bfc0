"""Intervals: Student's distribution as tables have it, a case by hand, and how often 2,000 simulated ones hold the truth."""

from __future__ import annotations

import random
from math import sqrt
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._results.comparisons import _difference
from kdtool._statistics import (
    Table,
    _reaches,
    _skewness,
    estimate,
    interval_of,
    level_of,
    margins,
    student_t,
    widen_fraction,
)

DRAWS = 2000


@pytest.mark.parametrize(
    ("degrees", "point"),
    [(1, 12.7062), (1.5, 6.01666), (2, 4.30265), (5, 2.57058), (7.3, 2.34507), (30, 2.04227), (163, 1.97462),
     (1e6, 1.95997)],
)  # fmt: skip
def test_points_of_students_distribution_are_those_of_tables(degrees: float, point: float) -> None:
    assert student_t(degrees) == pytest.approx(point, rel=1e-5)


@pytest.mark.parametrize("items", [1, 12, 300])
def test_a_fraction_of_equal_items_that_all_failed_ends_where_the_beta_distribution_says(items: int) -> None:
    from scipy.stats import beta

    (reach, _) = widen_fraction((0.0, 0.0), [[[(1.0, 1.0)] * items]], 1.0)
    assert reach == pytest.approx(float(beta.ppf(0.975, 1, items)), rel=1e-9)


@pytest.mark.parametrize(
    ("unit", "transform", "lowest"), [("per token", "exp", 1.0), ("bits per byte", "identity", 0.0)]
)
def test_an_interval_of_few_items_ends_at_the_lowest_value_that_its_unit_has(
    unit: str, transform: Literal["identity", "exp"], lowest: float
) -> None:
    items = [(0.2, 1.0), (3.0, 1.0)]
    unbounded, bounded = interval_of(items, transform=transform), interval_of(items, unit=unit, transform=transform)
    assert unbounded is not None
    assert unbounded[0] < lowest
    assert bounded == (lowest, unbounded[1])
    below = [(total - 9, weight) for total, weight in items]
    assert interval_of(below, unit=unit, transform=transform) == interval_of(below, transform=transform), (
        "no such value"
    )


def test_one_seed_and_equal_weights_give_the_paired_t_interval() -> None:
    one, other = [3.0, 5.0, 4.0, 8.0], [2.0, 5.0, 2.0, 3.0]
    tables = [[[(value, 1.0) for value in values]] for values in (one, other)]
    differences = [a - b for a, b in zip(one, other, strict=True)]  # 1, 0, 2, 5: mean 2, variance 14/3
    assert estimate(_difference("identity"), tables) == 2.0
    reach = margins(_difference("identity"), tables)
    assert reach is not None
    assert reach[0] == pytest.approx(3.18245 * sqrt(14 / 3 / len(differences)), rel=1e-5)
    assert reach[1] > reach[0]  # the items are skewed: their mean may well be larger
    even = [[[(value, 1.0) for value in values]] for values in ((1.0, 2.0, 3.0, 4.0), (1.0, 1.0, 1.0, 1.0))]
    assert margins(_difference("identity"), even) == pytest.approx((3.18245 * sqrt(5 / 3 / 4),) * 2, rel=1e-5)


def test_two_seeds_add_their_own_spread_with_its_own_degrees() -> None:
    tables = [[[(1.0, 1.0), (1.0, 1.0)], [(4.0, 1.0), (4.0, 1.0)]]]  # seeds 1 and 4, items all alike
    assert margins(level_of("identity"), tables) == pytest.approx((12.7062 * 3 / 2,) * 2, rel=1e-5)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0.1, 9)), min_size=3, max_size=12))
def test_hall_removes_the_skewness_that_his_transformation_has(items: list[tuple[float, float]]) -> None:
    """Each end is Student's, or the T at which Hall's g(T) = T + aT²/3 + a²T³/27 + a/6 is Student's point."""
    influences = [total - weight for total, weight in items]
    point = student_t(len(items) - 1)
    a = _skewness(influences) / sqrt(len(items))
    below, above = _reaches(point, influences)
    for end, value in ((below, point), (-above, -point)):
        transformed = end + a * end**2 / 3 + a**2 * end**3 / 27 + a / 6
        assert abs(end) == pytest.approx(point) or transformed == pytest.approx(value, abs=1e-5)
    assert min(below, above) >= point


def _shares_of_solved(generator: random.Random, items: int, seeds: int, spread: float) -> list[Table]:
    """Tasks that are solved with probability 1/2 ± task ± seed; the first arm is 0.1 better."""
    tasks = [generator.uniform(-0.2, 0.2) for _ in range(items)]
    arms: list[Table] = []
    for shift in (0.1, 0.0):
        own = [task + generator.uniform(-0.1, 0.1) for task in tasks]
        luck = [generator.gauss(0, spread) for _ in range(seeds)]
        arms.append([[(float(generator.random() < 0.45 + shift + task + each), 1.0) for task in own] for each in luck])
    return arms


@pytest.mark.parametrize(
    ("items", "seeds", "spread", "least", "most"),
    [(12, 1, 0.0, 0.93, 0.97), (40, 1, 0.0, 0.93, 0.97), (40, 2, 0.15, 0.93, 0.975), (40, 5, 0.15, 0.93, 0.975),
     (20, 2, 0.0, 0.97, 1.01)],
)  # fmt: skip
def test_they_cover_what_other_seeds_and_items_would_give(
    items: int, seeds: int, spread: float, least: float, most: float
) -> None:
    """Where seeds hardly differ they are too wide, never too narrow."""
    generator, held = random.Random(7), 0
    for _ in range(DRAWS):
        tables = _shares_of_solved(generator, items, seeds, spread)
        reach = margins(_difference("identity"), tables)
        assert reach is not None
        held += -reach[1] <= estimate(_difference("identity"), tables) - 0.1 <= reach[0]
    assert least < held / DRAWS < most
