"""Counters of the energy that a machine's processors and its GPU took, read before and after something is done.

They count the whole machine, including other work and idle power. Linux shows the counters of
Intel's and AMD's processors (RAPL) as files, NVIDIA's driver reports that of a GPU (NVML, by the library `nvidia-ml-py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

_POWERCAP = Path("/sys/class/powercap")
_INSTALL = "nvidia-ml-py is not installed: pip install nvidia-ml-py"


class Counter(Protocol):
    """Something that counts microjoules. Behind `largest` it begins at 0 again; 0 for one that never does."""

    part: str
    largest: int

    def read(self) -> int:
        """Return what it stands at."""


@dataclass
class Meter:
    """The counters of a machine that can be read, and the reasons why others cannot, by the part that they count."""

    counters: Sequence[Counter] = ()
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> list[str]:
        """Names of the counted parts, such as "processors"."""
        return list(dict.fromkeys(counter.part for counter in self.counters))

    def counting(self, *parts: str) -> Meter | None:
        """Return the meter if it counts all these parts, else None."""
        return self if set(parts) <= set(self.parts) else None

    def read(self) -> list[int]:
        """Return what all counters stand at."""
        return [counter.read() for counter in self.counters]

    def since(self, before: Sequence[int]) -> float:
        """Return the joules since they were read; each may have begun again once."""
        spent = 0
        for counter, then, now in zip(self.counters, before, self.read(), strict=True):
            spent += now - then if now >= then else now + counter.largest - then
        return spent / 1e6


def meter(device: torch.device, powercap: Path = _POWERCAP) -> Meter:
    """Find the counters of this machine's processors and, if models compute on a GPU, the GPU's.

    Args:
        device: the device that models compute on.
        powercap: where Linux shows the counters of processors.
    """
    result = Meter()
    parts = {"processors": _processors(powercap)}
    if device.type == "cuda":
        parts["GPU"] = _gpu(device)
    for part, counters in parts.items():
        if isinstance(counters, str):
            result.missing[part] = counters
        else:
            result.counters = [*result.counters, *counters]
    return result


@dataclass
class _Zone:
    """A zone of RAPL: the cores and caches of a processor, or its memory."""

    file: Path
    largest: int
    part: str = "processors"

    def read(self) -> int:
        return int(self.file.read_text(encoding="ascii"))


def _processors(powercap: Path) -> list[Counter] | str:
    """Return the zones that together cover the processors and their memory once, or the reason why they cannot be read."""
    zones: list[Counter] = []
    packages = False
    try:
        for folder in sorted(powercap.glob("intel-rapl:*")):  # AMD's, too; not intel-rapl-mmio, which counts them again
            name = (folder / "name").read_text(encoding="ascii").strip()
            if name.startswith("package") or name == "dram":
                packages |= name != "dram"
                largest = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
                zones.append(_Zone(folder / "energy_uj", largest))
        for zone in zones:
            zone.read()
    except PermissionError as error:
        readable = f"sudo chmod a+r {powercap}/intel-rapl:*/energy_uj"
        return (
            f"{error.filename} can be read only by root; `{readable}` lets everybody read it until the machine restarts"
        )
    except (OSError, ValueError) as error:
        return f"the counters in {powercap} cannot be read: {error}"
    if not packages:
        return (
            f"{powercap} has no counters of processors (Linux shows them, but seldom in a virtual machine or container)"
        )
    return zones


class _Gpu:
    """An NVIDIA GPU; its counter never begins again."""

    part = "GPU"
    largest = 0

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    def read(self) -> int:
        return int(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) * 1000


def _gpu(device: torch.device) -> list[Counter] | str:
    """Return the counter of the GPU that models compute on, or why it cannot be read."""
    try:
        library: Any = import_module("pynvml")
    except ImportError:
        return _INSTALL
    try:
        library.nvmlInit()
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        counter = _Gpu(library, library.nvmlDeviceGetHandleByUUID(name))
        counter.read()
    except library.NVMLError as error:
        return f"NVIDIA's driver does not tell: {error}"
    return [counter]
