"""Parts of an estimate that models of transformers have in common. Light: no torch.

`PROCESS_BYTES` was fitted, with the trainer's constant for half precision, on six runs: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import kdtool

__all__ = ["PROCESS_BYTES", "forward_bytes", "itemsize", "student_parts"]

PROCESS_BYTES = 735_000_000
"""What a process that trains has resident beside tensors: libraries and what they keep, text, Python itself (Linux, CPU)."""

_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int8": 1, "uint8": 1}


def itemsize(dtype: str) -> int:
    """Return the bytes of a value by the name of its dtype, 4 for one that is not known."""
    return _SIZES.get(dtype, 4)


def forward_bytes(facts: kdtool.ModelFacts, tokens: int, dtype: str) -> int:
    """Return what a forward pass without gradient has in use at once: one layer's states and its feed-forward."""
    return tokens * itemsize(dtype) * (4 * facts.hidden + 3 * facts.feed_forward)


def student_parts(ahead: kdtool.Prospect, others: Iterable[Mapping[str, Any]] = ()) -> Iterator[kdtool.Estimate]:
    """Yield what a student on transformers takes beside its training: the process, its build, its files.

    Args:
        ahead: what is known of the run.
        others: settings under which the student would have other sizes.
    """
    facts = ahead.models.get(ahead.student)
    if facts is None:
        return
    yield kdtool.Estimate("process", ahead.stages, host_bytes=PROCESS_BYTES, note="Python, torch, transformers")
    size = 4 * facts.parameters  # it is built and saved in float32
    savings = tuple(kdtool.Saving(settings, "another student", changes_result=True) for settings in others)
    yield kdtool.Estimate("untrained student", ("students",), size, savings=savings)
    yield kdtool.Estimate("untrained student", disk_bytes=size)
