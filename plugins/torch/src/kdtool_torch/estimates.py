"""Memory and disk for `kdtool check`: bytes of values, of a student apart from its training, and of a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import kdtool

from kdtool_torch.device import compute_dtype, pick_device

if TYPE_CHECKING:
    from torch import Tensor, nn

_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int8": 1, "uint8": 1}
_STORED = "kdtool_stored_bytes"


def itemsize(dtype: str) -> int:
    """Return the bytes of a value by the name of its dtype, 4 for an unknown one."""
    return _SIZES.get(dtype, 4)


def forward_bytes(facts: kdtool.ModelFacts, tokens: int, dtype: str) -> int:
    """Return the peak bytes of a forward pass without gradient: one layer's states and its feed-forward."""
    return tokens * itemsize(dtype) * (4 * facts.hidden + 3 * facts.feed_forward)


def store_as(parameter: nn.Parameter, size: int) -> None:
    """Record that an outline's parameter will be stored in `size` bytes, as quantised weights are."""
    setattr(parameter, _STORED, size)


def stored_bytes(parameter: Tensor) -> int:
    """Return the bytes that a parameter of an outline will be stored in."""
    return int(getattr(parameter, _STORED, parameter.numel() * parameter.dtype.itemsize))


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


def recording_estimates(
    ahead: kdtool.RunForecast,
    bytes_a_token: Callable[[kdtool.PlannedSignals, kdtool.ModelFacts], float],
    bytes_once: Callable[[kdtool.ModelFacts], int],
    rows_per_shard: int,
    batch: int,
    working: int = 0,
) -> Iterator[kdtool.Estimate]:
    """Yield memory and disk of every recording: two copies of a shard, and a teacher's pass over `batch` rows.

    Args:
        ahead: forecast of the run.
        bytes_a_token: bytes kept per labelled token.
        bytes_once: bytes kept once for all rows.
        rows_per_shard: rows buffered before they are written.
        batch: rows per forward pass of the teacher.
        working: further bytes that the cache uses on the teacher's device.
    """
    on_host = pick_device().type != "cuda"
    for signals in ahead.signals:
        facts = ahead.models.get(signals.teacher)
        if facts is None:
            note = f"the plugin of {signals.teacher} does not implement kdtool_describe"
            yield kdtool.Estimate("teacher signals", note=note)
            continue
        size = bytes_a_token(signals, facts)
        shard = rows_per_shard * signals.row_length
        held = int(2 * min(shard, signals.tokens or shard) * size)
        in_use = forward_bytes(facts, batch * signals.row_length, facts.dtype) + working
        host = held + in_use if on_host else held
        note = (
            "" if signals.tokens else f"{size:.0f} bytes per token; the number of tokens is known when the text is read"
        )
        yield kdtool.Estimate("teacher signals", (signals.stage,), host, held + in_use - host)
        yield kdtool.Estimate("teacher signals", disk_bytes=int(signals.tokens * size) + bytes_once(facts), note=note)


class ActivationMemory(NamedTuple):
    """Bytes of one micro-batch: `kept` from forward for backward, copies of weights in the compute dtype among them.

    `recompute_bytes` is the memory of one layer that is computed a second time, 0 if none is. `draws` is True if the forward
    pass draws random numbers, as dropout does.
    """

    kept: int
    recompute_bytes: int
    draws: bool = False
