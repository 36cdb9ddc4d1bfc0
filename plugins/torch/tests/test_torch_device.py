"""How products are timed, the dtype `auto` that follows from it, and a GPU that a check assumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kdtool._contract.run_info import Gpu, assume
from kdtool_torch import compute_dtype, has_flash, pick_device, product_speed
from kdtool_torch import device as device_module


def test_an_assumed_gpu_decides_device_precision_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_has_varlen_attention", lambda: True)
    before = pick_device()
    kinds = ("t4", "cuda", torch.float32, False), ("a100-80gb", "cuda", torch.bfloat16, True)
    for name, kind, dtype, flash in (*kinds, ("m2-16gb", "mps", torch.float32, False)):
        with assume(Gpu.find(name)):
            device = pick_device()
            assert (device.type, compute_dtype("auto", device), has_flash()) == (kind, dtype, flash)
            assert product_speed(torch.float16, device) == Gpu.find(name).half
            assert product_speed(torch.float32, device) == Gpu.find(name).single
    assert pick_device() == before


def test_flash_attention_needs_a_pytorch_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_has_varlen_attention", lambda: False)
    with assume(Gpu.find("a100-80gb")):
        assert not has_flash()


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


def test_the_dtype_auto_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[torch.dtype] = []

    def product(device: str, dtype: torch.dtype) -> float:
        measured.append(dtype)
        return 2e9 if dtype == torch.bfloat16 else 1e9

    def asked_in_a_new_process() -> torch.dtype:
        device_module._kept_speed.cache_clear()
        return compute_dtype("auto", torch.device("cpu"))

    monkeypatch.setattr(device_module, "_product_speed", product)
    assert [asked_in_a_new_process() for _ in range(2)] == [torch.bfloat16] * 2
    assert len(measured) == 2
    (kept,) = cache.glob("*bfloat16")
    kept.write_text("1e9", encoding="utf-8")
    assert asked_in_a_new_process() == torch.float32
