"""Memory and disk of a student apart from its training, for `kdtool check`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import kdtool

from kdtool_torch._device import compute_dtype, pick_device
from kdtool_torch._sizes import itemsize

__all__ = ["student_estimates"]

CONTEXT_BYTES = 500_000_000
"""GPU memory that CUDA, cuBLAS and loaded kernels take before the first tensor."""


def student_estimates(ahead: kdtool.RunForecast, others: Iterable[Mapping[str, Any]] = ()) -> Iterator[kdtool.Estimate]:
    """Yield the needs of a student apart from training: building it, its files, measuring it.

    Args:
        ahead: the planned run.
        others: settings that give the student another size, to propose.
    """
    facts = ahead.models.get(ahead.student)
    if facts is None:
        return
    if pick_device().type == "cuda":
        yield kdtool.Estimate("CUDA context", ahead.stages, device_bytes=CONTEXT_BYTES, note="kernels and libraries")
    size = itemsize(facts.dtype) * facts.parameters
    savings = tuple(kdtool.Saving(settings, "another student", changes_result=True) for settings in others)
    yield kdtool.Estimate("student before training", ("students",), size, savings=savings)
    yield kdtool.Estimate("student before training", disk_bytes=size)
    wider = _widened_bytes(ahead, facts.parameters)
    if wider:
        note = "it computes in float32 and keeps its weights in float32"
        yield kdtool.Estimate("measured student in float32", ("scores",), compute_bytes=wider, note=note)


def _widened_bytes(ahead: kdtool.RunForecast, parameters: int) -> int:
    """Return how many more bytes the student's weights take when opened for measurement than when saved.

    Runtimes keep 16-bit weights in float32 if the device computes in another dtype than theirs.
    """
    if ahead.student_bytes >= 4 * parameters:
        return 0
    computed = str(compute_dtype("auto", pick_device())).removeprefix("torch.")
    same = computed == ahead.models[ahead.student].dtype
    return 0 if same else 4 * parameters - ahead.student_bytes
