"""Widths that suit kernels and GGUF's K-quants, and notes on others. Light: torch loads in `uses_of`.

Used by students whose shape is chosen, from random weights or cut from a teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import kdtool

__all__ = ["KERNEL_MULTIPLE", "QUANT_MULTIPLE", "kernel_notes", "uses_of"]

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
        yield f"{_list(odd)} not a multiple of {KERNEL_MULTIPLE}, so the GPU's matrix units are partly idle"
    odd = [f"{name} {size}" for name, size in rows.items() if size % QUANT_MULTIPLE]
    if odd and gguf:
        yield (
            f"{_list(odd)} not a multiple of {QUANT_MULTIPLE}: GGUF stores q4_k there as q5_0, q5_k as q5_1, q6_k as q8_0, "
            "and the file is larger"
        )


def _list(sizes: list[str]) -> str:
    return f"{' and '.join(sizes)} {'is' if len(sizes) == 1 else 'are'}"
