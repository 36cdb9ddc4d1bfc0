"""Logits come unrounded where the device returns float32 from products in half precision, as CUDA does."""

from __future__ import annotations

import kdtool
import pytest
import torch
from kdtool_torch import numerics, unrounded_logits
from torch import Tensor

VOCABULARY, PADDED, WIDTH, COUNT = 61, 64, 32, 40
HALF = torch.bfloat16


def draw() -> tuple[kdtool.Head, kdtool.Head, Tensor]:
    """Return a head in half precision, the same one in float32, and states."""
    weight, bias, states = (torch.randn(*shape).to(HALF) for shape in ((PADDED, WIDTH), (PADDED,), (COUNT, WIDTH)))
    half, exact = (kdtool.Head(weight.to(kind), VOCABULARY, bias.to(kind), 0.7, 9.0) for kind in (HALF, torch.float32))
    return half, exact, states


def test_they_are_those_of_a_product_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "returns_float32", lambda _device, dtype: dtype == HALF)
    monkeypatch.setattr(numerics, "product_in_float32", lambda a, b, _out: a.float() @ b.float())
    half, exact, states = draw()
    found = unrounded_logits(half, states)
    torch.testing.assert_close(found, exact.logits(states))
    assert not torch.equal(found, half.logits(states).float())


def test_elsewhere_they_are_the_heads() -> None:
    for head in draw()[:2]:
        states = torch.randn(COUNT, WIDTH).to(HALF)
        assert torch.equal(unrounded_logits(head, states), head.logits(states))
