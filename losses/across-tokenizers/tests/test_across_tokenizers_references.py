"""All losses on whole steps against plain loops in float64."""

from __future__ import annotations

import math

import pytest
from cut_steps import OTHER, OWN, projected_kl, sides, span_likelihood, uld
from cut_texts import (
    TOKENIZERS,
    after,
    ended,
    labels_of,
    plain_divergence,
    same_reading,
    shortest_spans,
    values_of,
    view_of,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 50), st.floats(0.5, 3))
def test_uld_is_what_plain_loops_say(seed: int, temperature: float) -> None:
    view = view_of(OWN, OTHER, seed)
    own, other = sides(view, temperature)
    expected = [0.0] * len(own)
    for i, j in same_reading(view):
        q, p = (sorted(side, reverse=True) + [0.0] * (17 - len(side)) for side in (own[i], other[j]))
        expected[i] = sum(abs(a - b) for a, b in zip(q, p, strict=True))
    assert sum(value > 0 for value in expected) == 6
    assert values_of(uld(temperature=temperature), view).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(0, 50), st.floats(0.5, 200))
def test_span_likelihood_is_what_plain_loops_say(seed: int, tau: float) -> None:
    view = view_of(OWN, OTHER, seed)
    assert view.teacher_batch is not None
    own, other = sides(view)
    mine, theirs = labels_of(view.batch), labels_of(view.teacher_batch)
    expected = [0.0] * len(own)
    for first, second in shortest_spans(view):
        q_log = sum(math.log(own[i][mine[i]]) for i in first) - 1e-6
        p_log = sum(math.log(other[j][theirs[j]]) for j in second) - 1e-6
        p = math.exp(p_log / tau)
        no = -math.expm1(p_log / tau), -math.expm1(q_log / tau)
        expected[first[-1]] = tau * (p * (p_log - q_log) / tau + no[0] * math.log(no[0] / no[1]))
    assert sum(value > 0 for value in expected) == 5
    assert values_of(span_likelihood(temperature=tau), view).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(st.integers(0, 50), st.floats(0.5, 3))
def test_projected_kl_is_what_plain_loops_say(seed: int, temperature: float) -> None:
    """Of `CLASSES`, written down by hand: " a" begins with the teacher's " ", "abb" with the student's "ab"."""
    view = view_of(OWN, OTHER, seed)
    own, other = sides(view, temperature)
    expected = [0.0] * len(own)
    for i, j in same_reading(view):
        q, p = (_by_class(side, table) for side, table in zip((own[i], other[j]), CLASSES, strict=True))
        expected[i] = sum(p[c] * math.log(p[c] / sum(p.values()) / q[c] * sum(q.values())) for c in p)
    assert sum(value > 0 for value in expected) == 6
    found = values_of(projected_kl(temperature=temperature), view)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


CLASSES = (
    ["a", "b", " ", " ", "ab", "\n", "b", None, None, None, "end"],
    ["b", "a", " ", "a", " ", None, "ab", "\n", "ab", "\n", "b", None, None, " ", "b", None, "end"],
)


def _by_class(probabilities: list[float], table: list[str | None]) -> dict[str, float]:
    found: dict[str, float] = {}
    for probability, name in zip(probabilities, table, strict=True):
        if name is not None:
            found[name] = found.get(name, 0.0) + probability
    return found


@given(st.integers(0, 50), st.sampled_from([0.05, 0.2, 0.4]))
def test_debiased_spans_are_what_plain_loops_say(seed: int, least: float) -> None:
    view = view_of(OWN, OTHER, seed)
    assert view.teacher_batch is not None
    own, other = sides(view)
    mine, theirs = labels_of(view.batch), labels_of(view.teacher_batch)
    ends = [
        [not piece or piece in (b" ", b" a", b" ab", b" b", b"\n", b"\n\n") for piece in t.table] for t in TOKENIZERS
    ]
    expected = [0.0] * len(own)
    q_log = p_log = 0.0
    before: tuple[int | None, int | None] = (None, None)
    for first, second in shortest_spans(view):
        if before != (first[0], second[0]):
            q_log = p_log = 0.0
        q_log += sum(math.log(own[i][mine[i]]) for i in first)
        p_log += sum(math.log(other[j][theirs[j]]) for j in second)
        before = after(view.batch, first[-1]), after(view.teacher_batch, second[-1])
        if ended(view.batch, first[-1]):
            q_end = p_end = 1.0
        elif before[0] is None or before[1] is None:
            continue
        else:
            q_end = sum(p for p, is_end in zip(own[before[0]], ends[0], strict=True) if is_end)
            p_end = sum(p for p, is_end in zip(other[before[1]], ends[1], strict=True) if is_end)
        if p_end > least:
            expected[first[-1]] = plain_divergence(q_log + math.log(q_end), p_log + math.log(p_end), 100.0)
            before = None, None
    assert any(expected)
    assert values_of(span_likelihood(debias=least), view).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)
