"""Signals of a phase: from the teacher itself, or from a cache that recorded them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdtool._contract.data import Batch
from kdtool._contract.run_info import Hooks
from kdtool._contract.signal_checks import check_rows
from kdtool._contract.signals import Signal, SignalRequest
from kdtool._contract.teacher import Cache, Teacher
from kdtool._errors import UsageError
from kdtool._plugins.owner import blame
from kdtool._tokenizers.vocabulary import Vocabularies

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BoundSignals:
    """A `SignalSource` on one hook of one component. Signals are cut to the first `shared` tokens, unless it is None."""

    want: SignalRequest
    ask: Callable[[Batch, SignalRequest], Signal]
    shared: int | None = None
    recorded: bool = False
    """True if a cache is read: also in another thread than the student's."""

    def signal(self, batch: Batch, chosen: Tensor | None = None) -> Signal:
        """Return the signal for a batch."""
        found = self.ask(batch, replace(self.want, chosen=chosen))
        return found if self.shared is None else cut_signal(found, self.shared)


def from_teacher(
    hooks: Hooks, teacher: str, want: SignalRequest, vocabularies: Vocabularies | None = None
) -> BoundSignals:
    """Return signals that the teacher computes on demand, over all its tokens.

    Where the student has more tokens than the teacher, rows that hold one of these are refused.
    """
    ask: Callable[[Batch, SignalRequest], Signal] = hooks.component(teacher, Teacher).kdtool_signal
    if vocabularies is not None and vocabularies.relation == "prefix" and vocabularies.sizes[0] > vocabularies.shared:
        ask = partial(_readable, ask, teacher, vocabularies.shared)
    return BoundSignals(want, ask)


def from_cache(hooks: Hooks, cache: str, want: SignalRequest, folder: Path) -> BoundSignals:
    """Return signals that the cache recorded in `folder`."""
    recall, is_compared = hooks.component(cache, Cache).kdtool_recall, False

    def ask(batch: Batch, want: SignalRequest) -> Signal:
        """Recall a signal. The first one must cover the labels of its batch: an error names the cache."""
        nonlocal is_compared
        signal = recall(batch, want, folder)
        if not is_compared:
            with blame(hooks.owner(cache), "a signal"):
                check_rows(batch, signal)
        is_compared = True
        return signal

    return BoundSignals(want, ask, recorded=True)


def cut_signal(signal: Signal, shared: int) -> Signal:
    """Return the signal over the first `shared` tokens.

    Logits are cut before any softmax, and sampled tokens weighted again: both are the teacher's distribution conditional on
    these tokens. Top-k tokens outside are dropped, and the rest keep their probability.
    """
    lazy, sparse = signal.lazy, signal.sparse
    if lazy is not None:
        lazy = replace(lazy, head=replace(lazy.head, vocabulary=min(shared, lazy.head.vocabulary)))
    if sparse is not None:
        others = sparse.ids >= shared
        weights = sparse.weights.masked_fill(others, 0.0)
        if sparse.form == "sampled":
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
        sparse = replace(sparse, ids=sparse.ids.masked_fill(others, -1), weights=weights)
    return replace(signal, lazy=lazy, sparse=sparse)


def _readable(
    ask: Callable[[Batch, SignalRequest], Signal], teacher: str, known: int, batch: Batch, want: SignalRequest
) -> Signal:
    rows = batch.input_ids.amax(1).tolist()
    for key, greatest in zip(batch.row_keys, rows, strict=True):
        if greatest >= known:
            raise UsageError(
                f"row {key!r} holds token {greatest:,}; {teacher} has only tokens below {known:,}. Leave out the "
                "component that adds such tokens, such as filling in the middle, or use another teacher"
            )
    return ask(batch, want)
