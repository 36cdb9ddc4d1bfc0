"""Parameter counts as recipes write them: `125M`, `1.2B`, or a whole number. Light: no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

__all__ = ["ParameterCount", "readable_count"]

LARGEST = 100_000_000_000
"""Largest accepted count of parameters; larger ones are typing errors."""

_WRITTEN = r"^\s*(\d+(?:\.\d+)?)\s*([kKmMbB])\s*$"
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(_WRITTEN, value)
    if match is None:
        raise ValueError(f"{value!r} is not a count of parameters: write, for instance, 125M, 1.2B or 125000000")
    number, unit = match.groups()
    return round(float(number) * _UNITS[unit.lower()])


ParameterCount = Annotated[
    int,
    Field(ge=1, le=LARGEST),
    BeforeValidator(
        _read,
        json_schema_input_type=Annotated[int, Field(ge=1, le=LARGEST)] | Annotated[str, Field(pattern=_WRITTEN)],
    ),
]
"""The type of a setting that counts parameters: an integer, or text with k, M or B for thousand, million, billion."""


def readable_count(count: int) -> str:
    """Return a count as people say it: `303.7M`, `1.24B`, `12.6k`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)
