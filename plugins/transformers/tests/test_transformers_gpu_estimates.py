"""Estimates for GPUs: what their kernels keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kdtool_transformers import estimate_activation_memory, outline_of
from kdtool_transformers.testing import tiny_model

SEQUENCE, BATCH, HIDDEN, HEADS = 256, 2, 128, 4


def bytes_of_a_layer(*, flash: bool) -> int:
    """Return what a layer of a GPT with feed-forward 4h keeps under autocast: LayerNorm, GELU, as many KV heads as heads."""
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 4 * HIDDEN, "num_attention_heads": HEADS}
    shape: dict[str, Any] = {**sizes, "num_key_value_heads": HEADS, "residual_dropout": 0.0}
    few, many = (
        estimate_activation_memory(
            outline_of(tiny_model("starcoder2", layers=layers, **shape).model.config),
            *(BATCH, SEQUENCE, torch.bfloat16),
            gpu=True,
            flash=flash,
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
    assert bytes_of_a_layer(flash=True) == pytest.approx(published + autocast + sums_of_softmax, rel=0.03)


def test_without_flash_a_mask_is_kept_too() -> None:
    mask = 2 * BATCH * SEQUENCE**2
    assert bytes_of_a_layer(flash=False) - bytes_of_a_layer(flash=True) == pytest.approx(mask, rel=0.02)


def test_the_attention_of_a_cpu_keeps_its_softmax_and_that_of_a_gpu_does_not() -> None:
    outline = outline_of(tiny_model(layers=3, hidden_size=128).model.config)
    cpu = estimate_activation_memory(outline, 2, 512, torch.bfloat16)
    gpu = estimate_activation_memory(outline, 2, 512, torch.bfloat16, gpu=True, flash=True)
    assert gpu.kept < 0.7 * cpu.kept


def test_dropout_is_seen_where_it_is() -> None:
    config = tiny_model("starcoder2", residual_dropout=0.1).model.config
    assert estimate_activation_memory(outline_of(config), 1, 32, torch.float32).draws
    assert not estimate_activation_memory(outline_of(tiny_model().model.config), 1, 32, torch.float32).draws
