"""Signals of several teachers, each at its own positions, as one signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kdtool
from torch import Tensor

from kdtool_teacher_routed._heads import Heads
from kdtool_teacher_routed._parts import Part

__all__ = ["join"]


def join(parts: Mapping[str, Part], signals: Mapping[str, kdtool.Signal], count: int, heads: Heads) -> kdtool.Signal:
    """Return one signal of `count` positions from the parts of several teachers and their signals, by name."""
    if len(signals) == 1:
        return next(iter(signals.values()))  # its rows hold every label

    def of(kind: str) -> dict[str, Any]:
        return {name: value for name, signal in signals.items() if (value := getattr(signal, kind)) is not None}

    def scatter(values: Mapping[str, Any], field: Callable[[Any], Tensor], empty: int) -> Tensor:
        tensors = {name: field(value) for name, value in values.items()}
        whole = next(iter(tensors.values())).new_full((count, max(each.shape[1] for each in tensors.values())), empty)
        for name, each in tensors.items():
            taught = parts[name].taught
            whole[parts[name].asked[taught], : each.shape[1]] = each[taught]
        return whole

    lazy: kdtool.LazyLogits | None = None
    sparse: kdtool.SparseTokens | None = None
    chosen: kdtool.ChosenTokens | None = None
    if lazies := of("lazy"):
        heads.update({name: each.head for name, each in lazies.items()})
        states = {name: heads.place(name, each.hidden) for name, each in lazies.items()}
        lazy = kdtool.LazyLogits(scatter(states, lambda each: each, 0), heads.join())
    if sparses := of("sparse"):
        ids, weights = scatter(sparses, lambda each: each.ids, -1), scatter(sparses, lambda each: each.weights, 0)
        first = next(iter(sparses.values()))
        sparse = kdtool.SparseTokens(ids, weights, first.form, first.temperature)
    if chosens := of("chosen"):
        ids = scatter(chosens, lambda each: each.ids, -1)
        logs = scatter(chosens, lambda each: each.log_probabilities, 0)
        chosen = kdtool.ChosenTokens(ids, logs, next(iter(chosens.values())).temperature)
    fingerprint = " ".join(f"{name} {signal.fingerprint}" for name, signal in signals.items())
    return kdtool.Signal(fingerprint, lazy, sparse, chosen=chosen)
