"""The exact test against counting all signs, and against McNemar's by hand."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._statistics import chance


@given(st.lists(st.integers(-6, 6), max_size=9), st.sampled_from([1, 3, 20, 77]))
def test_it_is_the_share_of_all_signs_with_which_the_sum_is_as_far_from_zero(sizes: list[int], parts: int) -> None:
    differing = [size for size in sizes if size]
    sums = [sum(sign * size for sign, size in zip(signs, differing, strict=True))
            for signs in product([1, -1], repeat=len(differing))]  # fmt: skip
    expected = sum(abs(each) >= abs(sum(sizes)) for each in sums) / len(sums)
    assert chance([size / parts for size in sizes]) == pytest.approx(expected)


def test_of_tasks_that_pass_or_fail_it_is_mcnemars_in_any_unit() -> None:
    for more, fewer, expected in ((0, 0, 1.0), (5, 0, 0.0625), (7, 1, 0.0703125), (10, 3, 0.09228515625)):
        assert chance([1.0] * more + [0.0] * 9 + [-1.0] * fewer) == pytest.approx(expected)
    for scale in (1.0, 1e-12, 1e12):
        assert chance([scale * each for each in (1.0, 2.0, 1.5, 0.7, 3.0, 1.1, 0.2, 2.4, 1.9, 0.6)]) == 2 / 2**10
    assert chance([0.3141, -0.2718, 0.5772]) == 0.5


@given(st.lists(st.floats(-3, 3).filter(lambda each: not each or abs(each) > 0.01), max_size=9))
def test_without_a_common_part_it_is_so_but_for_sums_that_are_as_good_as_equal(differences: list[float]) -> None:
    differing = [each for each in differences if each]
    sums = [abs(sum(sign * each for sign, each in zip(signs, differing, strict=True)))
            for signs in product([1, -1], repeat=len(differing))]  # fmt: skip
    found, whole = abs(sum(differing)), sum(map(abs, differing))
    least, most = (sum(each >= found + by * whole for each in sums) / len(sums) for by in (0.002, -0.002))
    assert least <= chance(differences) <= most


def test_many_tasks_are_counted_in_no_time_or_not_at_all() -> None:
    assert 0.5 < chance([1 / 3, -1 / 3, 2 / 3, -2 / 3] * 70) <= 1
    assert 0.5 < chance([math.sin(n) for n in range(300)]) <= 1
    assert chance([1.0, -1.0] * 151) == 0.0
