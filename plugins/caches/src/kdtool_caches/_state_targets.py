"""Stored parts of a teacher's signal, and the signal rebuilt from them: final states, layers' states, the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_torch import RecordedRows, move

if TYPE_CHECKING:
    from torch import Tensor, device

__all__ = ["RecalledStates", "StateTargets"]

_LAST = "last"


class StateTargets:
    """Keeps states at labelled positions; see `kdtool_torch.Recording`."""

    def __init__(self, want: kdtool.SignalRequest) -> None:
        self._want = want

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Keep the teacher's head."""
        if signal.lazy is None:
            return {}, {}
        head = signal.lazy.head
        tensors = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
        stored = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        return stored, {"vocabulary": head.vocabulary, "scale": head.scale, "soft_cap": head.soft_cap}

    def select(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Callable[[], Iterator[Mapping[str, Tensor]]]:
        """Keep each row's states, copied, since a teacher may use its memory again.

        Raises:
            kdtool.PluginError: the signal is not what was wanted, or not of all labelled positions.
        """
        import torch
        from kdtool_torch import NO_LABEL, copy_to_host

        counts = (batch.labels != NO_LABEL).sum(1).tolist()
        kept = self._states_to_store(signal)
        for name, states in kept.items():
            if len(states) != sum(counts):
                raise kdtool.PluginError(
                    f"the teacher's signal '{name}' has {len(states)} positions for a batch with {sum(counts)} labels"
                )
        copied = copy_to_host(list(kept.values()))

        def encode() -> Iterator[Mapping[str, Tensor]]:
            for states in zip(*(torch.split(tensor, counts) for tensor in copied()), strict=True):
                yield dict(zip(kept, states, strict=True))

        return encode

    def _states_to_store(self, signal: kdtool.Signal) -> dict[str, Tensor]:
        want = self._want
        states_by_name = {_LAST: signal.lazy.hidden} if signal.lazy is not None else {}
        states_by_name |= {_layer(layer): states for layer, states in signal.hidden.items()}
        wanted = {_LAST} if "logits" in want.kinds else set()
        wanted |= {_layer(layer) for layer in want.layers} if "hidden" in want.kinds else set()
        if not wanted <= set(states_by_name):
            raise kdtool.PluginError(
                f"the teacher's signal must hold {sorted(wanted)}, but holds {sorted(states_by_name)}: correct its `offers`"
            )
        return {name: states_by_name[name] for name in sorted(wanted)}


class RecalledStates:
    """The signals of one folder. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        self._recorded = RecordedRows(folder)
        self._heads: dict[device, kdtool.Head] = {}
        self._lock = Lock()

    def signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        """Return the wanted signal of the batch, on its device, as copies that are independent of the files."""
        import torch

        rows, device = self._recorded.find(batch), batch.labels.device

        def states(name: str) -> Tensor:
            return move(torch.cat(self._recorded.pieces(rows, name)), device)

        lazy = kdtool.LazyLogits(states(_LAST), self._head(device)) if "logits" in want.kinds else None
        layers = want.layers if "hidden" in want.kinds else ()
        hidden = {layer: states(_layer(layer)) for layer in layers}
        return kdtool.Signal(self._recorded.facts["fingerprint"], lazy, hidden=hidden)

    def _head(self, device: device) -> kdtool.Head:
        with self._lock:
            if device not in self._heads:
                self._heads[device] = self._load_head(device)
            return self._heads[device]

    def _load_head(self, device: device) -> kdtool.Head:
        facts, tensors = self._recorded.facts, self._recorded.header()
        bias = tensors.get("bias")
        return kdtool.Head(
            weight=tensors["weight"].to(device),
            vocabulary=facts["vocabulary"],
            bias=None if bias is None else bias.to(device),
            scale=facts["scale"],
            soft_cap=facts["soft_cap"],
        )


def _layer(layer: int) -> str:
    return f"layer.{layer}"
