"""Signals recorded once: exact ones from stored states of the teacher, or a few tokens of its distribution.

Recipes call the caches `states`, `sampled` and `top-k`. `States` keeps final states, and the trainer recomputes the
teacher's logits from them, chunk by chunk: nothing is rounded and nothing is sampled. The other two keep tokens, which
are selected, encoded and restored in sub-modules that import torch and NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import kdtool

from kdtool_torch.batch import move
from kdtool_torch.shards import RecordedRows

if TYPE_CHECKING:
    from torch import Tensor, device

    from kdtool_torch.caches.tokens import RecalledTokens
    from kdtool_torch.recording import Recording


__all__ = ["Sampled", "States", "TopK"]


class _Recorded(kdtool.Cache):
    """Records signals to files once, and recalls them; base class of all caches."""

    every_rank_records = True
    config: Any  # each cache has its own settings; `rows_per_shard` and `batch` are among them

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._recorded: dict[Path, RecalledStates | RecalledTokens] = {}
        self._lock = Lock()

    def recording(self, want: kdtool.SignalRequest) -> Recording:
        """Return the codec that selects and encodes what is kept of each position."""
        raise NotImplementedError

    def open_recorded(self, folder: Path) -> RecalledStates | RecalledTokens:
        """Return the signals recorded in a folder."""
        raise NotImplementedError

    def kdtool_record(
        self, run: kdtool.RunInfo, rows: kdtool.RowSource, source: kdtool.SignalSource, folder: Path
    ) -> int:
        """Record all rows that are still missing.

        Raises:
            kdtool.StorageError: the disk is full or not writable.
            kdtool.PluginError: the teacher does not provide the requested signal, or is not the one recorded so far.
        """
        from kdtool_torch.recording import record_rows

        config = self.config
        return record_rows(run, rows, source, folder, self.recording(source.want), config.rows_per_shard, config.batch)

    def kdtool_recall(self, batch: kdtool.Batch, want: kdtool.SignalRequest, folder: Path) -> kdtool.Signal:
        """Return the recorded signal, on the batch's device. A file's hash is checked when the process first opens it.

        Raises:
            kdtool.StorageError: a row is missing, or a file is damaged.
        """
        with self._lock:
            if folder not in self._recorded:
                self._recorded[folder] = self.open_recorded(folder)
            recorded = self._recorded[folder]
        return recorded.signal(batch, want)

    def kdtool_close(self) -> None:
        """Close the files."""
        self._recorded.clear()


class States(_Recorded):
    """Stores the teacher's final states at labelled positions, and those of wanted layers, in the teacher's own precision.

    For data that is seen more than once: 2 bytes · width per token, and the same again for each layer. The teacher runs once
    over all rows and is not needed while training; its head is stored, too. Signals are recalled bit for bit.
    """

    offers: frozenset[kdtool.SignalKind] = frozenset({"logits", "hidden"})
    config: Config

    class Config(kdtool.Config):
        """Settings of `states`."""

        rows_per_shard: int = kdtool.Field(default=64, ge=1, le=65536)
        """Rows per file. A killed recording loses at most one file's rows."""
        batch: int = kdtool.Field(default=8, ge=1, le=4096)
        """Rows that the teacher sees at once while recording."""

    def records(self, want: kdtool.SignalRequest, offers: frozenset[kdtool.SignalKind]) -> kdtool.SignalRequest:
        """Ask the teacher for logits and hidden states as they are wanted."""
        return replace(want, kinds=want.kinds & self.offers)

    def recording(self, want: kdtool.SignalRequest) -> Recording:
        return StateTargets(want)

    def open_recorded(self, folder: Path) -> RecalledStates:
        return RecalledStates(folder)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_torch.estimates import itemsize, recording_estimates

        yield from recording_estimates(
            ahead,
            lambda signals, facts: (
                facts.hidden * itemsize(facts.dtype) * (len(signals.want.layers) + ("logits" in signals.want.kinds))
            ),
            lambda facts: facts.vocabulary * facts.hidden * itemsize(facts.dtype),
            self.config.rows_per_shard,
            self.config.batch,
        )


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
            kdtool.PluginError: the signal is not what was wanted.
        """
        import torch

        from kdtool_torch.batch import NO_LABEL, copy_to_host

        counts = (batch.labels != NO_LABEL).sum(1).tolist()
        want = self._want
        states_by_name = {_LAST: signal.lazy.hidden} if signal.lazy is not None else {}
        states_by_name |= {_layer(layer): states for layer, states in signal.hidden.items()}
        wanted = {_LAST} if "logits" in want.kinds else set()
        wanted |= {_layer(layer) for layer in want.layers} if "hidden" in want.kinds else set()
        if not wanted <= set(states_by_name):
            raise kdtool.PluginError(
                f"the teacher's signal must hold {sorted(wanted)}, but holds {sorted(states_by_name)}: correct its `offers`"
            )
        kept = {name: states_by_name[name] for name in sorted(wanted)}
        copied = copy_to_host(list(kept.values()))

        def encode() -> Iterator[Mapping[str, Tensor]]:
            for states in zip(*(torch.split(tensor, counts) for tensor in copied()), strict=True):
                yield dict(zip(kept, states, strict=True))

        return encode


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
                tensors = {name: tensor.to(device) for name, tensor in self._recorded.header().items()}
                facts = {name: self._recorded.facts[name] for name in ("vocabulary", "scale", "soft_cap")}
                self._heads[device] = kdtool.Head(tensors["weight"], bias=tensors.get("bias"), **facts)
            return self._heads[device]


def _layer(layer: int) -> str:
    return f"layer.{layer}"


FEW = 100
"""Likeliest tokens below which students came out worse than without a teacher: arXiv 2503.16870."""


class _Tokens(_Recorded):
    """Records and recalls a few tokens per position; base class of both caches."""

    form: ClassVar[Literal["sampled", "top-k"]]
    config: Config

    class Config(kdtool.Config):
        """Settings of both caches."""

        rows_per_shard: int = kdtool.Field(default=256, ge=1, le=65536)
        """Rows per file, and the most that a killed recording loses."""
        batch: int = kdtool.Field(default=8, ge=1, le=4096)
        """Rows per forward pass of the teacher while recording."""

    def bytes_a_token(self) -> float:
        """Return the approximate bytes per position, for a teacher as confident as small code models are."""
        raise NotImplementedError

    def records(self, want: kdtool.SignalRequest, offers: frozenset[kdtool.SignalKind]) -> kdtool.SignalRequest:
        """Request logits, from which the tokens are selected."""
        return replace(want, kinds=frozenset({"logits"}), layers=())

    def open_recorded(self, folder: Path) -> RecalledTokens:
        from kdtool_torch.caches.tokens import RecalledTokens

        return RecalledTokens(folder, self.form)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_torch.caches.tokens import chunk_bytes
        from kdtool_torch.device import pick_device
        from kdtool_torch.estimates import recording_estimates

        rows, working = (self.config.rows_per_shard, self.config.batch), 2 * chunk_bytes(pick_device())
        yield from recording_estimates(ahead, lambda *_: self.bytes_a_token(), lambda _: 0, *rows, working=working)


class Sampled(_Tokens):
    """Tokens sampled from the teacher's distribution: about 13 bytes per token, and unbiased gradients.

    Works only with losses that are linear in the teacher's probabilities; among the divergences, that is forward KL.
    The temperature is the loss's, and is fixed when signals are recorded.
    """

    form = "sampled"
    offers: frozenset[kdtool.SignalKind] = frozenset({"sampled"})
    config: Config

    class Config(_Tokens.Config):
        """Settings of `sampled`."""

        samples: int = kdtool.Field(default=20, ge=1, le=1024)
        """Samples per position. More samples cost more bytes and reduce the variance of the gradient."""
        design: Literal["systematic", "independent"] = "systematic"
        """`systematic`: one random number per position, and counts that are probabilities rounded up or down. `independent`:
        independent samples, as RS-KD was published; needs about twice the samples for the same accuracy."""

        seed: int = kdtool.Field(default=0, ge=0, lt=2**63)
        """Seed of the samples. Changing it records new samples."""
        alternatives: int = kdtool.Field(default=1, ge=1, le=64)
        """Independent sets of samples per row; bytes grow in proportion. A phase uses the next set in each epoch, and starts
        with a different one for each seed of the run. With 1, all epochs and seeds use the same samples."""

    def recording(self, want: kdtool.SignalRequest) -> Recording:
        from kdtool_torch.caches.tokens import SampledTargets

        config, systematic = self.config, self.config.design == "systematic"
        noise = {"seed": config.seed, "alternatives": config.alternatives}
        return SampledTargets(want.temperature, config.samples, systematic=systematic, **noise)

    def bytes_a_token(self) -> float:
        # Measured: 13 at 20 samples, 39 at 100 (docs/science/gradient-angle.md).
        return self.config.alternatives * 1.6 * float(self.config.samples**0.7)


class TopK(_Tokens):
    """The teacher's k likeliest tokens with their probabilities; all others share one bucket. Biased: prefer `sampled`.

    A loss does not see how the teacher distributes the rest. With fewer than 100 tokens, expect a student worse than one
    trained without a teacher (arXiv 2503.16870).
    """

    form = "top-k"
    offers: frozenset[kdtool.SignalKind] = frozenset({"top-k"})
    config: Config

    class Config(_Tokens.Config):
        """Settings of `top-k`."""

        k: int = kdtool.Field(default=100, ge=1, le=4096)
        """Tokens kept per position; fewer if the teacher returns fewer."""

    def records(self, want: kdtool.SignalRequest, offers: frozenset[kdtool.SignalKind]) -> kdtool.SignalRequest:
        """Request logits, or top-k tokens from a teacher that offers only these, such as a server."""
        only_top_k = "top-k" in offers and "logits" not in offers
        return replace(want, kinds=frozenset({"top-k" if only_top_k else "logits"}), layers=())

    def recording(self, want: kdtool.SignalRequest) -> Recording:
        from kdtool_torch.caches.tokens import TeacherTopKTargets, TopKTargets

        return (
            TeacherTopKTargets(self.config.k) if "top-k" in want.kinds else TopKTargets(want.temperature, self.config.k)
        )

    def bytes_a_token(self) -> float:
        return 2.9 * self.config.k

    def kdtool_record(
        self, run: kdtool.RunInfo, rows: kdtool.RowSource, source: kdtool.SignalSource, folder: Path
    ) -> int:
        if self.config.k < FEW:
            run.say(
                f"signals: top-k with k = {self.config.k} drops how the teacher distributes the rest; with fewer than about "
                f"{FEW} tokens, students came out worse than without a teacher. Set `use: sampled`: smaller and unbiased"
            )
        return super().kdtool_record(run, rows, source, folder)
