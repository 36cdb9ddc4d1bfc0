"""Parts of an estimate that models of transformers have in common. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["download_parts", "forward_bytes", "itemsize", "student_parts"]

CONTEXT_BYTES = 500_000_000
"""GPU memory that CUDA, cuBLAS and loaded kernels take before the first tensor."""

_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int8": 1, "uint8": 1}


def itemsize(dtype: str) -> int:
    """Return the bytes of a value by the name of its dtype, 4 for an unknown one."""
    return _SIZES.get(dtype, 4)


def forward_bytes(facts: kdtool.ModelFacts, tokens: int, dtype: str) -> int:
    """Return the peak bytes of a forward pass without gradient: one layer's states and its feed-forward."""
    return tokens * itemsize(dtype) * (4 * facts.hidden + 3 * facts.feed_forward)


def download_parts(source: str, revision: str | None, parameters: int) -> Iterator[kdtool.Estimate]:
    """Yield the download of a model that is not on this machine yet, and the space it takes in the Hub's cache.

    Args:
        source: a folder, which is here, or a Hub name.
        revision: of a Hub name.
        parameters: number of the model's parameters, for its approximate size if the published one is unknown; 0 if it
            is not described yet.
    """
    from kdtool_transformers._published import published_bytes
    from kdtool_transformers._sources import is_cached

    if source.lower().endswith(".gguf") or Path(source).expanduser().exists() or is_cached(source, revision):
        return
    known = published_bytes(source)
    size = 2 * parameters if known is None else known
    note = (
        "" if known is not None else "about, from its shape in 16 bits" if size else "size unknown before the download"
    )
    yield kdtool.Estimate(f"weights of {source} from the Hub", disk_bytes=size, download_bytes=size, note=note)


def student_parts(ahead: kdtool.RunForecast, others: Iterable[Mapping[str, Any]] = ()) -> Iterator[kdtool.Estimate]:
    """Yield the needs of a student on transformers apart from training: building it, its files, measuring it.

    Args:
        ahead: the planned run.
        others: settings that give the student another size, to propose.
    """
    from kdtool_torch import pick_device

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

    `TransformersRuntime` keeps 16-bit weights in float32 if the device computes in another dtype than theirs.
    """
    from kdtool_torch import compute_dtype, pick_device

    if ahead.student_bytes >= 4 * parameters:
        return 0
    computed = str(compute_dtype("auto", pick_device())).removeprefix("torch.")
    same = computed == ahead.models[ahead.student].dtype
    return 0 if same else 4 * parameters - ahead.student_bytes
