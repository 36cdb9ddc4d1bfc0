"""The dtype `auto`: measured once for this machine, kept whole or not at all, and measured again where nothing is known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kdtool_torch import compute_dtype
from kdtool_torch import device as device_module


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.dtype]]:
    """The dtypes measured, on a machine on which bfloat16 is twice as fast."""
    found: list[torch.dtype] = []

    def product(device: str, dtype: torch.dtype) -> float:
        found.append(dtype)
        return 2e9 if dtype == torch.bfloat16 else 1e9

    monkeypatch.setattr(device_module, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(device_module, "_product_speed", product)
    yield found
    device_module._bfloat16_is_faster.cache_clear()
    device_module._kept_speed.cache_clear()


def asked_in_a_new_process() -> torch.dtype:
    device_module._bfloat16_is_faster.cache_clear()
    return compute_dtype("auto", torch.device("cpu"))


def test_it_is_measured_once(measured: list[torch.dtype], tmp_path: Path) -> None:
    assert [asked_in_a_new_process() for _ in range(2)] == [torch.bfloat16] * 2
    assert len(measured) == 2
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_text("False", encoding="utf-8")
    assert asked_in_a_new_process() == torch.float32


@pytest.mark.parametrize("content", [b"", b"Tr", b"true", b"\xff\xfe"])
def test_a_file_that_says_nothing_is_no_answer(content: bytes, measured: list[torch.dtype], tmp_path: Path) -> None:
    asked_in_a_new_process()
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(content)
    assert asked_in_a_new_process() == torch.bfloat16
    assert kept.read_text(encoding="utf-8") == "True"


@pytest.mark.usefixtures("measured")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, *args: object, **kwargs: object) -> object:
        os.close(handle)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        assert asked_in_a_new_process() == torch.bfloat16
    assert list((tmp_path / "cache").iterdir()) == []
