"""Estimates that need no plugin: the process, and components without `kdtool_estimate`, from the shapes of models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdtool._contract.estimates import Estimate, RunForecast, bytes_of_weights
from kdtool._contract.run_info import Owner

_PROCESS_BYTES = 580_000_000
"""Memory other than tensors: Python, torch, transformers, text (Linux, CPU). Fitted to runs: docs/benchmarks/memory.md."""


def estimate_process(ahead: RunForecast) -> Estimate:
    """Return the memory of every run in addition to its models."""
    return Estimate("process", ahead.stages, host_bytes=_PROCESS_BYTES, note="Python, torch, transformers")


def estimate_without_hook(owner: Owner, component: Any, ahead: RunForecast) -> Iterator[Estimate]:
    """Yield estimates for a component without `kdtool_estimate`; a note without a figure names what is unknown.

    Nothing is yielded for kinds that hold no model, such as losses, and for teachers that are a service.
    """
    facts, held = ahead.models.get(owner.name), ahead.student_bytes
    if owner.kind == "trainer":
        yield Estimate("memory and time of training", note=_missing("kdtool_estimate"))
    elif owner.kind == "evaluator":
        yield Estimate("measured student", ("scores",), compute_bytes=held)
    elif owner.kind == "exporter":
        yield Estimate("exported student", disk_bytes=held)
    elif owner.kind == "student" and facts is not None:
        yield Estimate("student before training", ("students",), host_bytes=bytes_of_weights(facts))
        yield Estimate("student before training", disk_bytes=bytes_of_weights(facts))
    elif owner.kind == "teacher" and facts is not None:
        yield Estimate("teacher", compute_bytes=bytes_of_weights(facts))
    elif owner.kind == "student" or (owner.kind == "teacher" and component.answer_cache_key is None):
        yield Estimate("memory", note=_missing("kdtool_describe"))


def _missing(hook: str) -> str:
    return f"its plugin does not implement {hook}"
