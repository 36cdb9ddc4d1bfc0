"""How products are timed, and a GPU that a check assumes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kdtool._contract.run_info import Gpu, assume
from kdtool_torch import compute_dtype, has_flash, pick_device, product_speed
from kdtool_torch import device as device_module


def test_an_assumed_gpu_decides_device_precision_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_has_varlen_attention", lambda: True)
    before = pick_device()
    for name, dtype, flash in (("t4", torch.float32, False), ("a100-80gb", torch.bfloat16, True)):
        with assume(Gpu.find(name)):
            device = pick_device()
            assert (device.type, compute_dtype("auto", device), has_flash()) == ("cuda", dtype, flash)
            assert product_speed(torch.float16, device) == Gpu.find(name).half
            assert product_speed(torch.float32, device) == Gpu.find(name).single
    assert pick_device() == before


def test_flash_attention_needs_a_pytorch_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_has_varlen_attention", lambda: False)
    with assume(Gpu.find("a100-80gb")):
        assert not has_flash()


@pytest.mark.parametrize(
    ("function", "known"),
    [
        (lambda query, is_causal: (query, is_causal), False),
        (lambda query, scale, window_size: (query, scale, window_size), True),
    ],
)
def test_versions_of_pytorch_with_flash_attention_for_documents(
    function: Any, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.10 has neither a scale nor windows; 2.11 has both, and no `enable_gqa` yet."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", function)
    device_module._has_varlen_attention.cache_clear()
    try:
        assert device_module._has_varlen_attention() is known
    finally:
        device_module._has_varlen_attention.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(device_module, "cache_folder", lambda: tmp_path)
    device_module._kept_speed.cache_clear()
    yield tmp_path
    device_module._kept_speed.cache_clear()


def test_the_speed_of_products_is_measured_once_for_this_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = product_speed(torch.float32, torch.device("cpu"))
    assert found > 1e8
    monkeypatch.setattr(device_module, "_product_speed", lambda *_: 1.0)
    device_module._kept_speed.cache_clear()
    assert product_speed(torch.float32, torch.device("cpu")) == found
    (kept,) = cache.iterdir()
    kept.write_text("nan", encoding="ascii")
    device_module._kept_speed.cache_clear()
    assert product_speed(torch.float32, torch.device("cpu")) == torch.get_num_threads()


@pytest.mark.usefixtures("cache")
def test_time_in_which_others_had_the_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = device_module._product_speed("cpu", torch.float32)
    clock = time.perf_counter
    monkeypatch.setattr(
        device_module, "perf_counter", lambda: 5 * clock()
    )  # the wall clock of a machine shared by five
    assert device_module._product_speed("cpu", torch.float32) == pytest.approx(alone, rel=0.5)
