"""Attention under autocast: the dtype of what reaches its kernels, and the kernel that CUDA would run."""

from __future__ import annotations

from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing.tiny_models import gradients, greatest_difference, packed_batch, tiny_model
from kdtool_transformers import attention
from kdtool_transformers.attention import choose_kernel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2"])
def test_a_float32_student_under_autocast_reaches_flash_attention_on_cuda(
    family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, reached = [], []

    def choose(device_type: str, found: torch.dtype, head_sizes: tuple[int, int], **rest: Any) -> str:
        chosen.append(choose_kernel("cuda", found, head_sizes, **{**rest, "flash": True}))
        return choose_kernel(device_type, found, head_sizes, **rest)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
        reached.append((query.dtype, key.dtype, value.dtype))
        return blocks(query, key, value, *rest)

    blocks = attention.attend_in_blocks
    monkeypatch.setattr(attention, "choose_kernel", choose)
    monkeypatch.setattr(attention, "attend_in_blocks", attend)
    student = tiny_model(family)
    student.model.train()
    with torch.autocast("cpu", dtype):
        student.backbone(packed_batch(), kdtool.SignalRequest())
    assert {p.dtype for p in student.model.parameters()} == {torch.float32}
    assert chosen == ["flash"] * student.facts.layers
    assert reached == [(dtype, dtype, dtype)] * student.facts.layers


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2"])
def test_gradients_under_autocast_are_close_to_float32(family: str) -> None:
    exact = gradients(tiny_model(family))
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(tiny_model(family))
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert greatest_difference(found, exact) < 0.1


HALF, SINGLE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("device", "dtype", "sizes", "settings", "kernel"),
    [
        ("cpu", HALF, (64, 64), {}, "blocks"),
        ("cuda", HALF, (64, 64), {}, "flash"),
        ("cuda", torch.float16, (256, 256), {}, "flash"),
        ("cuda", SINGLE, (64, 64), {}, "sdpa"),
        ("cuda", HALF, (64, 64), {"flash": False}, "sdpa"),
        ("cuda", HALF, (64, 64), {"dropout": 0.1}, "sdpa"),
        ("cuda", HALF, (64, 64), {"soft_cap": 50.0}, "blocks"),
        ("cuda", HALF, (64, 128), {}, "sdpa"),
        ("cuda", HALF, (264, 264), {}, "sdpa"),
        ("cuda", HALF, (20, 20), {}, "sdpa"),
        ("mps", HALF, (64, 64), {"flash": False}, "sdpa"),
    ],
)
def test_kernels(device: str, dtype: torch.dtype, sizes: tuple[int, int], settings: Any, kernel: str) -> None:
    defaults: dict[str, Any] = {"dropout": 0.0, "soft_cap": None, "flash": True}
    assert choose_kernel(device, dtype, sizes, **{**defaults, **settings}) == kernel
