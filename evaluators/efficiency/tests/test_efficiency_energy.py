"""Counters of energy, from files as Linux shows them and from a driver that is played: sums, wrap-around, and what lacks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kdtool_evaluator_efficiency._energy import meter

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
FILES = pytest.mark.skipif(sys.platform == "win32", reason="Linux shows counters in folders whose names have colons")


def write_zone(powercap: Path, zone: str, name: str, energy: int, largest: int = 1_000_000_000) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n", encoding="ascii")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n", encoding="ascii")
    (folder / "energy_uj").write_text(f"{energy}\n", encoding="ascii")
    return folder / "energy_uj"


@FILES
def test_processors_and_memory_are_counted_once(tmp_path: Path) -> None:
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",  # within the package
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",  # all of it again
        "intel-rapl-mmio:0": "package-0",  # the same package by another way
    }
    for zone, name in zones.items():
        write_zone(tmp_path, zone, name, 1_000_000)
    found = meter(CPU, tmp_path)
    before = found.read()
    for power, (zone, name) in enumerate(zones.items()):
        write_zone(tmp_path, zone, name, 1_000_000 + 10**power)
    assert found.since(before) == pytest.approx((1 + 100 + 1000) / 1e6)
    assert (found.parts, found.missing) == (["processors"], {})
    assert found.counting("processors") is found
    assert found.counting("processors", "GPU") is None


@FILES
def test_a_counter_that_began_again_is_carried_on(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 262_143_000_000, largest=262_143_328_850)
    write_zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000, largest=262_143_328_850)
    found = meter(CPU, tmp_path)
    before = found.read()
    write_zone(tmp_path, "intel-rapl:0", "package-0", 671_150, largest=262_143_328_850)
    write_zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000, largest=262_143_328_850)
    assert found.since(before) == pytest.approx(1 + 2)


@FILES
def test_counters_that_only_root_reads_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = write_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def guarded(self: Path, *args: Any, **more: Any) -> str:
        if self == secret:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **more)

    monkeypatch.setattr(Path, "read_text", guarded)  # tests may run as root, who may read everything
    found = meter(CPU, tmp_path)
    assert found.parts == []
    assert "energy_uj can be read only by root; `sudo chmod a+r" in found.missing["processors"]


@FILES
@pytest.mark.parametrize("zones", [{}, {"intel-rapl:0": "psys"}])
def test_a_machine_without_counters_says_so(tmp_path: Path, zones: dict[str, str]) -> None:
    for zone, name in zones.items():
        write_zone(tmp_path, zone, name, 1)
    found = meter(CPU, tmp_path)
    assert "has no counters of processors" in found.missing["processors"]
    assert found.since(found.read()) == 0


class DriverError(Exception):
    """The library's exception."""


def play_driver(monkeypatch: pytest.MonkeyPatch, *millijoules: int | None) -> None:
    """Have a driver whose counter stands at these, one after the other; None for one that does not tell."""
    left = list(millijoules)

    def told(handle: str) -> int:
        assert handle == "GPU-1234"
        if (now := left.pop(0)) is None:
            raise DriverError("Not Supported")
        return now

    library = SimpleNamespace(
        NVMLError=DriverError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=told,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))


def test_a_gpu_is_counted_where_models_compute_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_driver(monkeypatch, 0, 5_000, 12_500)
    found = meter(GPU, tmp_path)
    assert found.parts == ["GPU"]
    assert list(found.missing) == ["processors"]
    assert found.since(found.read()) == pytest.approx(7.5)
    assert meter(CPU, tmp_path).parts == []


def test_a_driver_that_does_not_tell_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_driver(monkeypatch, None)
    assert meter(GPU, tmp_path).missing["GPU"] == "NVIDIA's driver does not tell: Not Supported"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in meter(GPU, tmp_path).missing["GPU"]
