"""Logits for numbers that are reported: float32 under autocast, and of heads in half precision."""

from __future__ import annotations

import kdtool
import pytest
import torch
from kdtool_torch import exact_head, exact_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("states_dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_rounded_to_half_precision(dtype: torch.dtype, states_dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    states = (3 * torch.randn(5, 16, generator=generator)).to(states_dtype)
    weight, bias = torch.randn(40, 16, generator=generator).to(dtype), torch.randn(40, generator=generator).to(dtype)
    head = kdtool.Head(weight, 37, bias, scale=0.5, soft_cap=9.0)
    expected = 9 * torch.tanh(0.5 * (states.double() @ weight[:37].double().T + bias[:37].double()) / 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = exact_logits(head, states)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_a_head_is_copied_to_float32_once_for_all_chunks() -> None:
    head = kdtool.Head(torch.randn(40, 16).bfloat16().requires_grad_(), 37, torch.randn(40).bfloat16())
    exact = exact_head(head)
    assert (exact.weight.dtype, exact.weight.shape, exact.weight.requires_grad) == (torch.float32, (37, 16), False)
    assert exact_head(exact).weight.data_ptr() == exact.weight.data_ptr()
    states = torch.randn(5, 16)
    assert exact_logits(exact, states).equal(exact_logits(head, states))
