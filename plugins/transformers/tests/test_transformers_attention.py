"""Attention under autocast: the dtype of what reaches its kernels, and the kernel that CUDA would run.

Tests marked `gpu` run flash attention, where there is a GPU that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing.tiny_models import gradients, greatest_difference, packed_batch, tiny_model
from kdtool_torch import Documents, has_flash
from kdtool_transformers import attention
from kdtool_transformers.attention import choose_kernel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

gpu = pytest.mark.skipif(not (torch.cuda.is_available() and has_flash()), reason="needs a GPU with flash attention")


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


@pytest.mark.parametrize("announced", [True, False])
def test_fewer_heads_of_keys_are_announced_to_flash_attention_where_it_asks(
    announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def asking(query: torch.Tensor, *_: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> Any:
        asked.append({"scale": scale, "window_size": window_size, "enable_gqa": enable_gqa})
        return query

    def not_asking(query: torch.Tensor, *_: Any, scale: float, window_size: tuple[int, int]) -> Any:
        asked.append({"scale": scale, "window_size": window_size})
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", asking if announced else not_asking)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    documents = Documents(positions, torch.zeros_like(positions))
    for key_heads, window in ((4, None), (2, 3)):
        query, key = torch.zeros(1, 4, 8, 16), torch.zeros(1, key_heads, 8, 16)
        assert attention._attend_with_flash(query, key, key, documents, 0.25, window).shape == (1, 8, 4, 16)
    windows: list[dict[str, Any]] = [{"scale": 0.25, "window_size": (-1, 0)}, {"scale": 0.25, "window_size": (2, 0)}]
    flags = [{"enable_gqa": grouped} if announced else {} for grouped in (False, True)]
    assert asked == [given | flag for given, flag in zip(windows, flags, strict=True)]


def test_cudnn_does_not_plan_the_attention_of_each_new_token(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[bool] = []
    enabled: Callable[[], bool] = torch.backends.cuda.cudnn_sdp_enabled

    def attend(*given: Any, **options: Any) -> Any:
        allowed.append(enabled())
        return sdpa_attention_forward(*given, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", attend)
    student = tiny_model(layers=1)
    assert enabled()
    student.generate([[1, 2]], [2], 0.0, [0])
    assert allowed == [False] * 2
    assert enabled()
    student.model(torch.tensor([[1, 2]]), use_cache=False)
    assert allowed.pop(), "a pass that is trained may use it"


@gpu
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("key_heads", [15, 5])
def test_flash_attention_computes_what_masked_attention_does(key_heads: int, window: int | None) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    index = torch.arange(512, device="cuda").expand(2, -1)
    documents = Documents(index % 200, index // 200)
    shapes = ((2, 15, 512, 64), (2, key_heads, 512, 64), (2, key_heads, 512, 64))
    states = [torch.randn(shape, generator=generator, device="cuda") for shape in shapes]

    def computed(dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [each.to(torch.bfloat16).to(dtype).requires_grad_() for each in states]
        query, key, value = inputs
        mixed = attention._attend_within(documents, query, key, value, window, 0.0, 0.125, None)
        mixed.float().square().sum().backward()  # type: ignore[no-untyped-call]
        return [mixed.detach(), *(each.grad for each in inputs if each.grad is not None)]

    found, exact = computed(torch.bfloat16), computed(torch.float32)  # the second by masked attention
    assert [tuple(each.shape) for each in found[1:]] == list(shapes)
    for one, other in zip(found, exact, strict=True):
        assert float((one.float() - other).norm() / other.norm()) < 0.01
