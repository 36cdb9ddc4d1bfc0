"""Widths that kernels and GGUF's K-quants like, and what is said of others. Light: no torch.

Used by students whose shape is chosen, drawn from nothing or cut from a teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

__all__ = ["KERNEL_MULTIPLE", "QUANT_MULTIPLE", "kernel_notes"]

KERNEL_MULTIPLE = 64
"""Matrix units of GPUs are filled by widths that are multiples of this."""
QUANT_MULTIPLE = 256
"""K-quants of GGUF store so many values of a row together."""


def kernel_notes(rows: Mapping[str, int], head_size: int) -> Iterator[str]:
    """Yield what kernels and K-quants do not like about a shape.

    Args:
        rows: every width that is the length of a matrix's rows, by name.
        head_size: width of an attention head.
    """
    odd = [f"{name} {size}" for name, size in [*rows.items(), ("head size", head_size)] if size % KERNEL_MULTIPLE]
    if odd:
        yield f"{_list(odd)} no multiple of {KERNEL_MULTIPLE}: matrix units of GPUs are not filled"
    odd = [f"{name} {size}" for name, size in rows.items() if size % QUANT_MULTIPLE]
    if odd:
        yield (
            f"{_list(odd)} no multiple of {QUANT_MULTIPLE}, which K-quants of GGUF ask of rows: there q4_k "
            "is stored as q5_0, q5_k as q5_1, q6_k as q8_0, and the file is larger"
        )


def _list(sizes: list[str]) -> str:
    return f"{' and '.join(sizes)} {'is' if len(sizes) == 1 else 'are'}"
