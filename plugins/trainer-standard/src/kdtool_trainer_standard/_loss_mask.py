"""Signals at some of a batch's labelled positions. Called by the module and `_row_selection`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import kdtool
from torch import Tensor

__all__ = ["select_signal"]


def select_signal(signal: kdtool.Signal, where: slice | Tensor) -> kdtool.Signal:
    """Return the signal with only these positions in its tensors over N positions."""

    def of(value: Any) -> Any:
        names = (name for name in ("hidden", "ids", "weights", "log_probabilities") if hasattr(value, name))
        return value and replace(value, **{name: getattr(value, name)[where] for name in names})

    hidden = {layer: states[where] for layer, states in signal.hidden.items()}
    return replace(signal, lazy=of(signal.lazy), sparse=of(signal.sparse), chosen=of(signal.chosen), hidden=hidden)
