"""Signals of a phase: from the teacher itself, or from a cache that recorded them before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kdtool._contract.kinds import Hooks
from kdtool._contract.signals import Signal, Want
from kdtool._contract.text import Batch

__all__ = ["BoundSignals", "from_cache", "from_teacher"]


@dataclass(frozen=True)
class BoundSignals:
    """A `SignalSource` on one hook of one component."""

    want: Want
    ask: Callable[[Batch], Signal]

    def signal(self, batch: Batch) -> Signal:
        """Return the signal for a batch."""
        return self.ask(batch)


def from_teacher(hooks: Hooks, teacher: str, want: Want) -> BoundSignals:
    """Return signals that the teacher gives while they are asked for."""
    return BoundSignals(want, partial(_asked, hooks.kdtool_signal.of(teacher), want))


def from_cache(hooks: Hooks, cache: str, want: Want, folder: Path) -> BoundSignals:
    """Return signals that the cache recorded in `folder`."""
    return BoundSignals(want, partial(_recalled, hooks.kdtool_recall.of(cache), want, folder))


def _asked(hook: Callable[[Batch, Want], Signal], want: Want, batch: Batch) -> Signal:
    return hook(batch, want)


def _recalled(hook: Callable[[Batch, Want, Path], Signal], want: Want, folder: Path, batch: Batch) -> Signal:
    return hook(batch, want, folder)
