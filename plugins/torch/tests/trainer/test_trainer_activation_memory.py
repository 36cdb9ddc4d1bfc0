"""Memory that an estimate without weights predicts for a forward pass, against that of one with weights."""

from __future__ import annotations

from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing.tiny_models import packed_batch, tiny_model
from kdtool_torch.machine import frozen_weights_held
from kdtool_transformers import TransformersModel, outline_of
from kdtool_transformers.activation_memory import estimate_activation_memory

ROWS, LENGTH = 2, 96
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 32},
}


def kept(student: TransformersModel, dtype: torch.dtype, passes: int = 1) -> int:
    """Return the bytes that forward passes leave for one backward, and of their final states."""
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    student.model.train()
    autocast = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with frozen_weights_held(student.model, dtype), autocast, saved:
        weights = {tensor.untyped_storage().data_ptr() for tensor in student.model.parameters()}
        last = [student.backbone(packed_batch(ROWS, LENGTH), kdtool.SignalRequest()).last for _ in range(passes)]
    storages |= {states.untyped_storage().data_ptr(): states.untyped_storage() for states in last}
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in weights)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "passes"), [("llama", 1), ("llama", 2), ("qwen2", 1), ("starcoder2", 1), ("gpt2", 1), ("gemma2", 1)]
)
def test_an_estimate_keeps_what_forward_passes_do(family: str, passes: int, dtype: torch.dtype, frozen: bool) -> None:
    student = tiny_model(family, layers=5, **SHAPE)
    outline = outline_of(student.model.config)
    for model in (student.model, outline.model) if frozen else ():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm" in name or "ln_" in name)
    found = estimate_activation_memory(outline, ROWS, LENGTH, dtype, passes).kept
    assert found == pytest.approx(kept(student, dtype, passes), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", MIXTURES)
def test_a_mixture_of_experts_keeps_what_its_forward_pass_does(family: str, dtype: torch.dtype) -> None:
    student = tiny_model(family, layers=4, **SHAPE, **MIXTURES[family])
    found = estimate_activation_memory(outline_of(student.model.config), ROWS, LENGTH, dtype)
    assert found.kept == pytest.approx(kept(student, dtype), rel=0.01)


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


SEQUENCE, BATCH, HIDDEN, HEADS = 256, 2, 128, 4


def bytes_of_a_layer() -> int:
    """Return what a layer of a GPT with feed-forward 4h keeps under autocast: LayerNorm, GELU, as many KV heads as heads."""
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 4 * HIDDEN, "num_attention_heads": HEADS}
    shape: dict[str, Any] = {**sizes, "num_key_value_heads": HEADS, "residual_dropout": 0.0}
    few, many = (
        estimate_activation_memory(
            outline_of(tiny_model("starcoder2", layers=layers, **shape).model.config),
            *(BATCH, SEQUENCE, torch.bfloat16),
            gpu=True,
            flash=True,
        ).kept
        for layers in (3, 5)
    )
    weights = 2 * 12 * HIDDEN**2  # copies in bfloat16, which autocast keeps until backward
    return (many - few) // 2 - weights


def test_a_layer_keeps_what_is_published_for_flash_attention() -> None:
    """Korthikanti et al. (arXiv 2205.05198): 34 sbh bytes, 2 of them masks of dropout; the attention keeps no 5as²b.

    Autocast keeps more: the residual that each of two norms reads is float32, and queries, keys and values are projected
    from a copy each of what the norm returns.
    """
    sbh = SEQUENCE * BATCH * HIDDEN
    published = (34 - 2) * sbh
    autocast = (2 * 2 + 2 * 2) * sbh
    sums_of_softmax = 4 * HEADS * SEQUENCE * BATCH
    assert bytes_of_a_layer() == pytest.approx(published + autocast + sums_of_softmax, rel=0.03)


def test_dropout_is_seen_where_it_is() -> None:
    config = tiny_model("starcoder2", residual_dropout=0.1).model.config
    assert estimate_activation_memory(outline_of(config), 1, 32, torch.float32).draws
    assert not estimate_activation_memory(outline_of(tiny_model().model.config), 1, 32, torch.float32).draws
