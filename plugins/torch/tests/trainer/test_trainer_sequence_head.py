"""The head of sequence losses: the gradients of a plain head, from a weight that is cast once."""

from __future__ import annotations

from dataclasses import replace

import kdtool
import pytest
import torch
from kdtool_torch import Side, numerics
from kdtool_torch.head import sequence_head
from torch import Tensor

VOCABULARY, PADDED, WIDTH, COUNT = 13, 16, 8, 11


def make_head(seed: int, dtype: torch.dtype = torch.float32) -> tuple[kdtool.Head, Tensor, Tensor]:
    """Return a head with padding, bias, scale and cap, states and labels."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(PADDED, WIDTH, generator=generator), torch.randn(PADDED, generator=generator)
    states = torch.randn(COUNT, WIDTH, generator=generator)
    labels = torch.randint(VOCABULARY, (COUNT,), generator=generator)
    learning = (tensor.to(dtype).requires_grad_() for tensor in (weight, bias, states))
    weight, bias, states = learning
    return kdtool.Head(weight, VOCABULARY, bias, 0.7, 4.0), states, labels


def gradients(head: kdtool.Head, states: Tensor, labels: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    likelihoods = Side(states, labels, head).likelihoods()
    ways = torch.arange(COUNT, dtype=likelihoods.dtype) - 2
    return list(torch.autograd.grad((likelihoods * ways).sum(), leaves))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "elements_at_once", lambda _: 2 * VOCABULARY)


@pytest.mark.usefixtures("small_chunks")
def test_gradients_in_float32_are_those_of_a_plain_head() -> None:
    head, states, labels = make_head(0)
    assert head.bias is not None
    leaves = [states, head.weight, head.bias]
    for found, expected in zip(
        gradients(sequence_head(head), states, labels, leaves), gradients(head, states, labels, leaves), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_float64_as_its_products(dtype: torch.dtype) -> None:
    """Gradients of six chunks are added in float32: bfloat16 sums would be off by more."""
    head, states, labels = make_head(0)
    exact, states64, _ = make_head(0, torch.float64)
    (expected,) = gradients(exact, states64, labels, [exact.weight])
    with torch.autocast("cpu", dtype):
        (found,) = gradients(sequence_head(head, dtype), states, labels, [head.weight])
    assert found.dtype == torch.float32
    assert float((found.double() - expected).norm() / expected.norm()) < 1e-2


def test_a_frozen_head_gives_states_their_gradient_and_the_weight_none() -> None:
    head, states, labels = make_head(0)
    frozen = sequence_head(head).frozen()
    (found,) = gradients(frozen, states, labels, [states])
    (expected,) = gradients(head, states, labels, [states])
    torch.testing.assert_close(found, expected)
    assert not frozen.logits(states.detach()).requires_grad


def test_a_head_whose_weight_a_loss_replaces_computes_with_that() -> None:
    head, states, _ = make_head(0)
    doubled = replace(sequence_head(head), weight=2 * head.weight)
    torch.testing.assert_close(doubled.logits(states), replace(head, weight=2 * head.weight).logits(states))
