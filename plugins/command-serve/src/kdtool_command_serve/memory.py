"""Answers that a model may generate at once, by the memory of their keys and values."""

from __future__ import annotations

import kdtool
import psutil  # type: ignore[import-untyped]  # it ships no types

__all__ = ["cache_bytes", "fitting_streams"]


def fitting_streams(runtime: kdtool.Runtime) -> int:
    """Return how many answers fit into half of the free memory, each as long as the context; at least one.

    It is at most the runtime's `streams`, and that number for a model with unknown shapes, such as a GGUF file: llama.cpp
    reserves its memory when it starts.
    """
    each = cache_bytes(runtime)
    if not each:
        return runtime.streams
    free: int = psutil.virtual_memory().available
    return max(1, min(runtime.streams, free // 2 // each))


def cache_bytes(runtime: kdtool.Runtime) -> int:
    """Return the bytes of the keys and values of one answer as long as the context; 0 if they are not known."""
    facts = runtime.model.facts if runtime.model else None
    if facts is None:
        return 0
    width = facts.head_size or facts.hidden // max(1, facts.heads)
    return 2 * facts.layers * facts.kv_heads * width * facts.context * (4 if facts.dtype == "float32" else 2)
