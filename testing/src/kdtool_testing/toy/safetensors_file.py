"""Tensors as a safetensors file. Needs only the standard library."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from struct import pack

__all__ = ["write_safetensors"]


def write_safetensors(path: Path, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Sequence[float]]) -> None:
    """Write float32 tensors in the format of safetensors: a header's length, the header, the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = array("f", [number for name in shapes for number in values[name]])
    if pack("=H", 1) != pack("<H", 1):
        numbers.byteswap()
    path.write_bytes(pack("<Q", len(text)) + text + numbers.tobytes())
