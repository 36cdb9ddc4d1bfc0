"""Sizes of models: parameter counts in recipes, widths that suit kernels, and the search for a shape.

Used by students whose shape is chosen, from random weights or cut from a teacher. The student plugin defines the possible
shapes and how unusual each is. Light: torch loads in `uses_of`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import kdtool
from pydantic import BeforeValidator, Field

LARGEST_COUNT = 100_000_000_000
"""Largest accepted count of parameters; larger ones are typing errors."""
_WRITTEN = r"^\s*(\d+(?:\.\d+)?)\s*([kKmMbB])\s*$"
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}


def _parse_count(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(_WRITTEN, value)
    if match is None:
        raise ValueError(f"{value!r} is not a count of parameters: write, for instance, 125M, 1.2B or 125000000")
    number, unit = match.groups()
    return round(float(number) * _UNITS[unit.lower()])


ParameterCount = Annotated[
    int,
    Field(ge=1, le=LARGEST_COUNT),
    BeforeValidator(
        _parse_count,
        json_schema_input_type=Annotated[int, Field(ge=1, le=LARGEST_COUNT)] | Annotated[str, Field(pattern=_WRITTEN)],
    ),
]
"""The type of a setting that counts parameters: an integer, or text with k, M or B for thousand, million, billion."""


def readable_count(count: int) -> str:
    """Return a count as people say it: `303.7M`, `1.24B`, `12.6k`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)


KERNEL_MULTIPLE = 64
"""Matrix units of GPUs are filled by widths that are multiples of this."""
QUANT_MULTIPLE = 256
"""K-quants of GGUF store this number of a row's values together."""


def uses_of(run: kdtool.RunInfo) -> dict[str, bool]:
    """Return the uses of a run that `kernel_notes` asks for: a GPU, also one that a check assumes, and GGUF files."""
    from kdtool_torch import pick_device

    owners = [run.hook.owner(name) for name in run.implementing("kdtool_export")]
    gguf = any(owner is not None and owner.use == "gguf" for owner in owners)
    return {"gpu": pick_device().type == "cuda", "gguf": gguf}


def kernel_notes(rows: Mapping[str, int], head_size: int, *, gpu: bool = True, gguf: bool = True) -> Iterator[str]:
    """Yield a note for each width of a shape that does not suit kernels or K-quants.

    Args:
        rows: every width that is the length of a matrix's rows, by name.
        head_size: width of an attention head.
        gpu: whether the model runs on a GPU.
        gguf: whether it is written as GGUF.
    """
    odd = [f"{name} {size}" for name, size in [*rows.items(), ("head size", head_size)] if size % KERNEL_MULTIPLE]
    if odd and gpu:
        yield f"{_join_sizes(odd)} not a multiple of {KERNEL_MULTIPLE}, so the GPU's matrix units are partly idle"
    odd = [f"{name} {size}" for name, size in rows.items() if size % QUANT_MULTIPLE]
    if odd and gguf:
        yield (
            f"{_join_sizes(odd)} not a multiple of {QUANT_MULTIPLE}: GGUF stores q4_k there as q5_0, q5_k as q5_1, "
            "q6_k as q8_0, and the file is larger"
        )


def _join_sizes(sizes: list[str]) -> str:
    return f"{' and '.join(sizes)} {'is' if len(sizes) == 1 else 'are'}"


TOLERANCE = 0.02
"""Relative tolerance of a shape's count of parameters."""
S = TypeVar("S", bound=tuple[Any, ...])


def best_shape(
    wanted: int,
    shapes: Callable[[tuple[float, float]], Iterator[S]],
    count: Callable[[S], int],
    cost: Callable[[S], float],
) -> tuple[S, bool]:
    """Return the cheapest shape within `TOLERANCE` of `wanted` and True; if there is none, the nearest and False.

    Args:
        wanted: parameters.
        shapes: yields all shapes with a count within bounds; at least one shape must exist.
        count: a shape's parameters.
        cost: how unusual a shape of the wanted count is; its error is added to it.
    """

    def within(tolerance: float) -> Iterator[S]:
        return shapes((wanted * (1 - tolerance), wanted * (1 + tolerance)))

    def error(shape: S) -> float:
        return abs(count(shape) / wanted - 1)

    fitting = min(within(TOLERANCE), key=lambda shape: (cost(shape) + 10 * error(shape), shape), default=None)
    if fitting is not None:
        return fitting, True
    tolerance, nearest = TOLERANCE, None
    while nearest is None:  # widen the bounds until a shape is found
        tolerance *= 1.5
        nearest = min(within(tolerance), key=lambda shape: (abs(count(shape) - wanted), shape), default=None)
    return nearest, False
