"""Logits come unrounded where the device returns float32 from products in half precision, as CUDA does."""

from __future__ import annotations

import kdtool
import pytest
import torch
from kdtool_torch import _half_products, unrounded_logits
from torch import Tensor

VOCABULARY, PADDED, WIDTH, COUNT = 61, 64, 32, 40
HALF = torch.bfloat16


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that returns float32 from products of half-precision operands."""

    def unrounded(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        assert a.dtype == b.dtype == HALF
        return torch.mm(a.float(), b.float(), out=out)

    monkeypatch.setattr(_half_products, "returns_float32", lambda _device, dtype: dtype == HALF)
    monkeypatch.setattr(_half_products, "product_in_float32", unrounded)


def draw() -> tuple[kdtool.Head, kdtool.Head, Tensor]:
    """Return a head in half precision, the same one in float32, and states."""
    weight, bias, states = (torch.randn(*shape).to(HALF) for shape in ((PADDED, WIDTH), (PADDED,), (COUNT, WIDTH)))
    half, exact = (kdtool.Head(weight.to(kind), VOCABULARY, bias.to(kind), 0.7, 9.0) for kind in (HALF, torch.float32))
    return half, exact, states


@pytest.mark.usefixtures("as_on_cuda")
def test_they_are_those_of_a_product_in_float32() -> None:
    half, exact, states = draw()
    found = unrounded_logits(half, states)
    torch.testing.assert_close(found, exact.logits(states))
    assert not torch.equal(found, half.logits(states).float())


def test_elsewhere_they_are_the_heads() -> None:
    for head in draw()[:2]:
        states = torch.randn(COUNT, WIDTH).to(HALF)
        assert torch.equal(unrounded_logits(head, states), head.logits(states))


def test_cuda_returns_float32_from_half_precision_only() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert all(_half_products.returns_float32(cuda, dtype) for dtype in (torch.bfloat16, torch.float16))
    assert not _half_products.returns_float32(cuda, torch.float32)
    assert not _half_products.returns_float32(cpu, HALF)
