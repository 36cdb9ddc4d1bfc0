"""Values of the weightings: plain loops in float64 that share no code, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool._contract.signals import alternatives
from kdtool_torch.weightings import (
    Confidence,
    StudentEntropy,
    confidence_weight,
    entropy,
    entropy_weight,
    probability,
    top_k_probability,
)
from torch import Tensor

numbers = st.lists(st.floats(-8, 8), min_size=5, max_size=5)


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def probabilities(values: list[float]) -> list[float]:
    weights = [math.exp(value) for value in values]
    return [weight / sum(weights) for weight in weights]


@given(numbers)
def test_entropy_is_what_plain_loops_say(values: list[float]) -> None:
    expected = sum(p * math.log(1 / p) for p in probabilities(values))
    assert entropy(row(values)).item() == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_a_certain_token_has_no_entropy() -> None:
    assert entropy(row([0.0, -math.inf, -math.inf])).item() == 0
    assert entropy(row([1e5, 0.0])).item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(6, 4000, generator=torch.Generator().manual_seed(0))).to(dtype)
    torch.testing.assert_close(entropy(logits).double(), entropy(logits.double()), rtol=1e-5, atol=1e-6)
    labels = torch.zeros(6, dtype=torch.int64)
    torch.testing.assert_close(
        probability(logits, labels).double(), probability(logits.double(), labels), rtol=1e-5, atol=1e-6
    )


@given(st.lists(st.floats(0, 11), min_size=1, max_size=6), st.floats(0, 6), st.floats(0, 4))
def test_entropy_weights_are_what_plain_loops_say(entropies: list[float], threshold: float, power: float) -> None:
    expected = [h**power if h >= threshold else 0.0 for h in entropies]
    found = entropy_weight(torch.tensor(entropies, dtype=torch.float64), threshold, power)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(numbers, st.integers(0, 4))
def test_probabilities_are_what_plain_loops_say(values: list[float], label: int) -> None:
    p, labels = probabilities(values), torch.tensor([label])
    assert probability(row(values), labels, "likeliest").item() == pytest.approx(max(p), rel=1e-9)
    assert probability(row(values), labels, "label").item() == pytest.approx(p[label], rel=1e-9)


@given(numbers, st.integers(0, 4), st.integers(1, 5))
def test_top_k_tokens_give_the_same_where_the_label_is_among_them(values: list[float], label: int, k: int) -> None:
    weights, ids = row(values).softmax(-1).topk(k)
    ids, labels = ids.int(), torch.tensor([label])
    exact = probability(row(values), labels, "label").item()
    assert top_k_probability(ids, weights, labels).item() == pytest.approx(max(probabilities(values)), rel=1e-9)
    found = top_k_probability(ids, weights, labels, "label").item()
    assert found == pytest.approx(exact if label in ids[0].tolist() else 0, rel=1e-9)
    assert exact - found <= weights.min().item() + 1e-12


def test_padding_of_top_k_tokens_and_labels_beyond_the_vocabulary_count_nothing() -> None:
    ids, weights = torch.tensor([[3, -1]]), torch.tensor([[0.7, 0.0]])
    assert top_k_probability(ids, weights, torch.tensor([3]), "label").item() == pytest.approx(0.7)
    assert top_k_probability(ids, weights, torch.tensor([2]), "label").item() == 0
    assert probability(torch.zeros(1, 4), torch.tensor([9]), "label").item() == 0


def test_confidence_weights_by_hand() -> None:
    p = torch.tensor([0.25, 1.0])
    assert confidence_weight(p, "sure").tolist() == [0.25, 1.0]
    assert confidence_weight(p, "unsure").tolist() == [0.75, 0.0]


def chunk(teacher: Any) -> kdtool.TokenChunk:
    here = torch.zeros(1, dtype=torch.int64)
    logits = row([1.0, 2.0, 4.0]).log().float()
    return kdtool.TokenChunk(logits, here, teacher, here, 1.0, torch.tensor(0.0), torch.tensor(0))


def sparse(form: Any, temperature: float = 1.0) -> kdtool.SparseTokens:
    return kdtool.SparseTokens(torch.tensor([[0]]), torch.ones(1, 1), form, temperature)


def test_sampled_tokens_are_not_asked_for() -> None:
    assert frozenset({"sampled"}) not in alternatives(Confidence.needs)


def test_tokens_taken_at_another_temperature_are_refused() -> None:
    with pytest.raises(kdtool.UsageError, match=r"temperature 1,.*2\.0"):
        Confidence(Confidence.Config()).kdtool_token_weight(chunk(sparse("top-k", 2.0)))
    assert Confidence(Confidence.Config()).kdtool_token_weight(chunk(sparse("top-k"))).item() == 1


def test_student_and_teacher_are_not_confused() -> None:
    """The student is (1, 2, 4) / 7; the teacher knows nothing."""
    seen = chunk(kdtool.DenseTokens(torch.zeros(1, 3)))
    own = math.log(7) - 2 / 7 * math.log(2) - 4 / 7 * math.log(4)
    for weighting, expected in (
        (StudentEntropy(StudentEntropy.Config()), own),
        (Confidence(Confidence.Config()), 1 / 3),
    ):
        assert weighting.kdtool_token_weight(seen).item() == pytest.approx(expected)
