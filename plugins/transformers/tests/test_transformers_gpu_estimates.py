"""Estimates for GPUs: what their kernels keep, how products are timed, and a GPU that a check assumes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kdtool._estimate.gpus import Gpu, assume
from kdtool_transformers import (
    _device,
    _files,
    compute_dtype,
    estimate_activation_memory,
    has_flash,
    outline_of,
    pick_device,
    product_speed,
)
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


def test_an_assumed_gpu_decides_device_precision_and_speed() -> None:
    before = pick_device()
    for name, dtype, flash in (("t4", torch.float32, False), ("a100-80gb", torch.bfloat16, True)):
        with assume(Gpu.find(name)):
            device = pick_device()
            assert (device.type, compute_dtype("auto", device), has_flash()) == ("cuda", dtype, flash)
            assert product_speed(torch.float16, device) == Gpu.find(name).half
            assert product_speed(torch.float32, device) == Gpu.find(name).single
    assert pick_device() == before


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(_files, "cache_folder", lambda: tmp_path)
    _device._kept_speed.cache_clear()
    yield tmp_path
    _device._kept_speed.cache_clear()


def test_the_speed_of_products_is_measured_once_for_this_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = product_speed(torch.float32, torch.device("cpu"))
    assert found > 1e8
    monkeypatch.setattr(_device, "_product_speed", lambda *_: 1.0)
    _device._kept_speed.cache_clear()
    assert product_speed(torch.float32, torch.device("cpu")) == found
    (kept,) = cache.iterdir()
    kept.write_text("nan", encoding="ascii")
    _device._kept_speed.cache_clear()
    assert product_speed(torch.float32, torch.device("cpu")) == torch.get_num_threads()


@pytest.mark.usefixtures("cache")
def test_time_in_which_others_had_the_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = _device._product_speed("cpu", torch.float32)
    clock = time.perf_counter
    monkeypatch.setattr(_device, "perf_counter", lambda: 5 * clock())  # the wall clock of a machine shared by five
    assert _device._product_speed("cpu", torch.float32) == pytest.approx(alone, rel=0.5)


def test_products_on_a_gpu_are_enqueued_and_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Module:
        @staticmethod
        def synchronize() -> None:
            calls.append("wait")

    product = torch.mm

    def count(*operands: Any, **options: Any) -> torch.Tensor:
        calls.append("product")
        return product(*operands, **options)

    monkeypatch.setattr(_device, "_LARGE_MATRIX", 64)
    monkeypatch.setattr(torch, "get_device_module", lambda _: Module)
    monkeypatch.setattr(torch, "mm", count)
    assert _device._speed_of_device("cpu", torch.float32) > 0
    run = "".join("w" if call == "wait" else "p" for call in calls)
    assert run.startswith("wpw" + "w" + _device._ENQUEUED * "p" + "w")
