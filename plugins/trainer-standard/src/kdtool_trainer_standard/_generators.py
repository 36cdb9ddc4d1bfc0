"""State of the process's random generators as JSON, a file of each rank in a checkpoint."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["describe_generators", "restore_generators"]


def describe_generators(device: torch.device) -> str:
    """Return the state of Python's, NumPy's and torch's generators, and of the device's, as JSON."""
    legacy: tuple[Any, ...] = np.random.get_state()  # type: ignore[assignment]  # a tuple, unless a dict is asked for
    kind, keys, *rest = legacy
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": _hex(torch.get_rng_state()),
    }
    if device.type != "cpu":
        states[device.type] = _hex(torch.get_device_module(device).get_rng_state())
    return json.dumps(states)


def restore_generators(file: Path, device: torch.device) -> None:
    """Restore what `describe_generators` returned, from a file."""
    states = json.loads(file.read_text(encoding="utf-8"))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_bytes(states["torch"]))
    if device.type in states:
        torch.get_device_module(device).set_rng_state(_bytes(states[device.type]))


def _hex(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _bytes(state: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8)
