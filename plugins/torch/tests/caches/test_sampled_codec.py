"""The bytes of a row: what goes in comes out, for any tokens, numbers and labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_torch.caches.codec import LEVEL, decode, encode

Position = tuple[dict[int, int], int]
VOCABULARIES = (3, 300, 70_000, 2_000_000)


@st.composite
def rows(draw: st.DrawFn, total: int | None = None) -> list[Position]:
    """Positions of a row: each its tokens with their numbers, and its label."""
    vocabulary = draw(st.sampled_from(VOCABULARIES))
    token = st.integers(0, vocabulary - 1)
    found = []
    for _ in range(draw(st.integers(0, 6))):
        ids = draw(st.lists(token, min_size=1, max_size=min(6, vocabulary), unique=True))
        if total is None:
            numbers = [draw(st.integers(1, 2**31 - 1)) for _ in ids]
        else:
            cuts = sorted(draw(st.permutations(range(1, total)))[: len(ids) - 1])
            numbers = np.diff([0, *cuts, total]).tolist()
        found.append((dict(zip(ids, numbers, strict=True)), draw(st.sampled_from(ids) | token)))
    return found


def arrays(row: list[Position]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    width = max((len(tokens) for tokens, _ in row), default=0)
    ids, numbers = np.full((len(row), width), -1), np.zeros((len(row), width), int)
    for place, (tokens, _) in enumerate(row):
        ids[place, : len(tokens)], numbers[place, : len(tokens)] = list(tokens), list(tokens.values())
    return ids, numbers, np.array([label for _, label in row], int)


def found(ids: np.ndarray, numbers: np.ndarray) -> list[dict[int, int]]:
    pairs = zip(ids.tolist(), numbers.tolist(), strict=True)
    return [{i: n for i, n in zip(*pair, strict=True) if i >= 0} for pair in pairs]


@given(st.lists(rows(), min_size=1, max_size=4))
def test_rows_come_out_as_they_went_in(given_rows: list[list[Position]]) -> None:
    made = [arrays(row) for row in given_rows]
    labels = np.concatenate([np.zeros(0, int), *(label for _, _, label in made)])
    for level in (1, LEVEL, 19):  # recordings may have been made at another one
        ids, numbers = decode([encode(*row, level=level) for row in made], labels)
        assert found(ids, numbers) == [tokens for row in given_rows for tokens, _ in row]


@given(st.lists(rows(total=9), min_size=1, max_size=4))
def test_counts_of_a_known_sum_come_out_too(given_rows: list[list[Position]]) -> None:
    made = [arrays(row) for row in given_rows]
    labels = np.concatenate([np.zeros(0, int), *(label for _, _, label in made)])
    ids, numbers = decode([encode(*row, total=9) for row in made], labels, total=9)
    assert found(ids, numbers) == [tokens for row in given_rows for tokens, _ in row]


def test_a_label_among_the_tokens_costs_less_than_another_token() -> None:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 49_152, (4000, 1))
    counts = np.ones_like(ids)
    known, unknown = (len(encode(ids, counts, labels, total=1)) for labels in (ids[:, 0], (ids[:, 0] + 1) % 49_152))
    assert known < 200
    assert unknown > 4000 * 1.9


def test_other_numbers_of_labels_are_refused() -> None:
    blob = encode(np.array([[5]]), np.array([[1]]), np.array([5]))
    with pytest.raises(ValueError, match="recorded positions: 1, labels: 2"):
        decode([blob], np.array([5, 5]))
