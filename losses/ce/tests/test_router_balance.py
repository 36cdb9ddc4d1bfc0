"""The balance of experts against plain loops in float64 and transformers' function, and the suite of losses."""

from __future__ import annotations

import math

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_ce import RouterBalance, load_balance
from kdtool_testing import SequenceLossConformance
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func


class TestRouterBalance(SequenceLossConformance):
    component = RouterBalance
    entry_point = "router-balance"


def reference(logits: list[list[float]], chosen: int, counts: list[bool]) -> float:
    """Return the value of one layer from probabilities and counts, token by token."""
    experts, tokens = len(logits[0]), [z for z, count in zip(logits, counts, strict=True) if count]
    frequency, probability = [0.0] * experts, [0.0] * experts
    for z in tokens:
        total = sum(map(math.exp, z))
        for expert in sorted(range(experts), key=lambda e: -z[e])[:chosen]:
            frequency[expert] += 1 / len(tokens)
        for expert in range(experts):
            probability[expert] += math.exp(z[expert]) / total / len(tokens)
    return experts * sum(f * p for f, p in zip(frequency, probability, strict=True))


def random_logits(tokens: int, experts: int, seed: int) -> torch.Tensor:
    return torch.randn(tokens, experts, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 9), st.integers(2, 7), st.integers(0, 99), st.data())
def test_it_is_what_plain_loops_say(tokens: int, experts: int, seed: int, data: st.DataObject) -> None:
    logits, chosen = random_logits(tokens, experts, seed), data.draw(st.integers(1, experts))
    counts = data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens))
    found = float(load_balance(logits, chosen, torch.tensor(counts)))
    assert found == pytest.approx(reference(logits.tolist(), chosen, counts), abs=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_of_one_layer_it_is_what_transformers_says(masked: bool) -> None:
    logits, counts = random_logits(24, 8, 1).float(), torch.arange(24).view(2, 12) % 12 < (9 if masked else 12)
    expected = load_balancing_loss_func((logits,), 8, 2, counts if masked else None)
    assert float(load_balance(logits, 2, counts.flatten())) == pytest.approx(float(expected), rel=1e-6)


def test_its_gradient_spreads_the_tokens() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0, -0.5]]).repeat(12, 1).requires_grad_()
    load_balance(logits, 1, torch.ones(12).bool()).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[:, 0] > 0).all(), "the expert that all tokens choose must lose"
    assert (logits.grad[:, 1:] < 0).all()


def test_without_router_logits_it_says_what_is_missing() -> None:
    nothing = kdtool.ModelOutputs(torch.zeros(1, 4))
    zeros = torch.zeros(1, 2).long()
    batch = kdtool.Batch(zeros, zeros, zeros, zeros, ("a",))
    view = kdtool.StepView(batch, nothing, None, torch.zeros(()), torch.zeros(()))
    with pytest.raises(kdtool.PluginError, match=r"student\.routing"):
        RouterBalance(RouterBalance.Config()).kdtool_sequence_loss(view)
