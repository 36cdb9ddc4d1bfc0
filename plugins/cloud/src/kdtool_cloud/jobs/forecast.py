"""GPU, time and cost of a run on a rented machine, as `kdtool.check` forecasts them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdtool

_KEY = re.compile(r"[A-Za-z0-9_]+_API_KEY")
_PICO = 1e-12


@dataclass(frozen=True)
class Forecast:
    """The needs of a run on one GPU.

    Args:
        name: the recipe's name.
        gpu: the GPU's name in `kdtool check`.
        device_bytes: peak of GPU memory.
        host_bytes: peak of main memory.
        disk_bytes: disk of store and runs.
        seconds: time of training; 0 if unknown.
        speed: source of `seconds`.
        teacher_dollars: cost of teachers that are services.
        keys: environment variables with keys that the recipe names.
        components: records of the components, as in `kdtool.check`.
    """

    name: str
    gpu: str
    device_bytes: int
    host_bytes: int
    disk_bytes: int
    seconds: float
    speed: str
    teacher_dollars: float
    keys: tuple[str, ...]
    components: tuple[Mapping[str, Any], ...]

    def lines(self, price: float | None) -> Iterator[str]:
        """Yield the estimate in words; `price` is that of the machine, in dollars per hour."""
        yield f"GPU     {self.gpu}: {self.device_bytes / 1e9:.1f} GB of its memory needed"
        yield f"memory  {self.host_bytes / 1e9:.1f} GB; disk {self.disk_bytes / 1e9:.1f} GB"
        if not self.seconds:
            yield "time    unknown: check cannot forecast this training"
        else:
            yield f"time    {_time(self.seconds)} of training ({self.speed}); set-up and measuring come on top"
        yield f"cost    {self._cost(price)}"
        if self.teacher_dollars:
            yield f"        {_dollars(self.teacher_dollars)} for the teacher's service"

    def _cost(self, price: float | None) -> str:
        if price is None:
            return "unknown: give the machine's price per hour with --price"
        if not self.seconds:
            return f"unknown time at ${price:.2f} per hour"
        return f"{_dollars(self.seconds / 3600 * price)} for training at ${price:.2f} per hour"


def forecast(recipe: Path, settings: Mapping[str, str], gpu: str | None, offered: Sequence[str]) -> Forecast:
    """Return the forecast for a GPU.

    Args:
        recipe: the recipe's file.
        settings: values of `--set`.
        gpu: the GPU's name; None chooses the first of `offered` that is large enough.
        offered: GPUs of the service, by memory.

    Raises:
        RecipeError: the recipe is wrong.
        UsageError: the service does not offer the GPU.
        MemoryExceededError: the run does not fit on the GPU, or on any.
    """
    if gpu is not None and gpu.lower() not in offered:
        raise kdtool.UsageError(f"--gpu: {gpu!r} is not offered with --on; choose one of {', '.join(offered)}")
    names, largest = [gpu.lower()] if gpu is not None else [*offered], offered[-1]
    if len(names) > 1:  # a check of a GPU that is too small takes long, because it looks for settings that fit
        needed = kdtool.check(recipe, settings, gpu=largest)["forecast"]["device_memory"]["peak"]
        names = [name for name in names if kdtool.Gpu.find(name).memory >= needed] or [largest]
    for name in names:
        report = kdtool.check(recipe, settings, gpu=name)
        if report["fits"]["gpu"]:
            return _read(report, name)
    needed, there = report["forecast"]["device_memory"]["peak"], report["limits"]["gpu"]
    remedy = f"run `kdtool check {recipe} --gpu {name}` for settings that need less"
    raise kdtool.MemoryExceededError(
        f"--gpu: the run needs {needed / 1e9:.1f} GB of GPU memory; {name} has {there / 1e9:.0f} GB; "
        f"{remedy if name == largest else f'choose a larger one, or {remedy}'}"
    )


def _read(report: Mapping[str, Any], gpu: str) -> Forecast:
    ahead, components = report["forecast"], tuple(report["components"])
    keys = (text for part in components for text in strings(part["config"]) if _KEY.fullmatch(text))
    return Forecast(
        name=report["name"],
        gpu=gpu,
        device_bytes=ahead["device_memory"]["peak"],
        host_bytes=ahead["memory"]["peak"],
        disk_bytes=ahead["disk_bytes"],
        seconds=ahead["seconds"],
        speed=ahead["speed"],
        teacher_dollars=ahead["picodollars"] * _PICO,
        keys=tuple(dict.fromkeys(keys)),
        components=components,
    )


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"


def _dollars(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.01 else "less than $0.01"


def strings(value: object) -> Iterator[str]:
    """Yield all strings in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings(item)
