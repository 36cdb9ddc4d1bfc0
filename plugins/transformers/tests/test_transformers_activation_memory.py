"""Memory that an estimate without weights predicts for a forward pass, against that of one with weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import kdtool
import pytest
import torch
from kdtool_transformers import TransformersModel, _activation_memory, estimate_activation_memory, outline_of
from kdtool_transformers import _attention as attention
from kdtool_transformers.testing import packed_batch, tiny_model

ROWS, LENGTH = 2, 96
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256}


def kept(student: TransformersModel, dtype: torch.dtype, passes: int = 1) -> int:
    """Return the bytes that forward passes leave for one backward, and of their final states."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in student.model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    student.model.train()
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        last = [student.backbone(packed_batch(ROWS, LENGTH), kdtool.SignalRequest()).last for _ in range(passes)]
    storages |= {states.untyped_storage().data_ptr(): states.untyped_storage() for states in last}
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in weights)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2", "gpt2", "gemma2"])
def test_a_activation_memory_keeps_what_a_forward_pass_does(family: str, dtype: torch.dtype, frozen: bool) -> None:
    student = tiny_model(family, layers=5, **SHAPE)
    outline = outline_of(student.model.config)
    for model in (student.model, outline.model) if frozen else ():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name or "ln_" in name)
    assert estimate_activation_memory(outline, ROWS, LENGTH, dtype).kept == pytest.approx(
        kept(student, dtype), rel=0.05
    )


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_passes_keep_what_two_forward_passes_do(dtype: torch.dtype, frozen: bool) -> None:
    student = tiny_model(layers=5, **SHAPE)
    outline = outline_of(student.model.config)
    for model in (student.model, outline.model) if frozen else ():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name)
    one, two = (estimate_activation_memory(outline, ROWS, LENGTH, dtype, passes).kept for passes in (1, 2))
    assert two == pytest.approx(kept(student, dtype, passes=2), rel=0.05)
    assert one < two <= 2 * one


def test_of_checkpointed_layers_only_what_goes_in_is_kept() -> None:
    student = tiny_model(layers=5, **SHAPE)
    outline = outline_of(student.model.config)
    whole = estimate_activation_memory(outline, ROWS, LENGTH, torch.float32)
    assert whole.recompute_bytes == 0
    for model in (student.model, outline.model):
        model.train()
        model.activation_checkpointing_enable({"use_reentrant": False})
    found = estimate_activation_memory(outline, ROWS, LENGTH, torch.float32)
    assert found.kept == pytest.approx(kept(student, torch.float32), rel=0.1)
    assert found.kept < whole.kept / 5
    assert found.recompute_bytes == pytest.approx(whole.kept / 5, rel=0.1)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [384, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_few_blocks_of_attention_stand_for_all(
    family: str, dtype: torch.dtype, length: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_model(family, layers=4, context=1024, **SHAPE).model.config
    checkpointed = outline_of(config)
    checkpointed.model.train()
    checkpointed.model.activation_checkpointing_enable({"use_reentrant": False})
    attended = attention._attend_blocks
    blocks: list[int] = []

    def counted(*given: Any) -> Any:
        blocks.append(len(given[-1]))
        return attended(*given)

    monkeypatch.setattr(attention, "_attend_blocks", counted)
    quick = [estimate_activation_memory(outline, rows, length, dtype) for outline in (outline_of(config), checkpointed)]
    assert max(blocks) <= 3
    monkeypatch.setattr(_activation_memory, "few_blocks", lambda _: nullcontext())
    full = [estimate_activation_memory(outline, rows, length, dtype) for outline in (outline_of(config), checkpointed)]
    for few, every in zip(quick, full, strict=True):
        assert few[:2] == pytest.approx(every[:2], rel=0.02)
