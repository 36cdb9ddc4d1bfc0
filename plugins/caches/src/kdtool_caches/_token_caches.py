"""The caches `sampled` and `top-k`, and their settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, Literal

import kdtool

if TYPE_CHECKING:
    from kdtool_torch import Recording

    from kdtool_caches._recalled import RecalledTokens

__all__ = ["Sampled", "TopK"]

FEW = 100
"""Likeliest tokens below which students came out worse than without a teacher: arXiv 2503.16870."""


class _Tokens(kdtool.Cache):
    """Records and recalls a few tokens per position; base class of both caches."""

    form: ClassVar[Literal["sampled", "top-k"]]
    every_rank_records = True
    config: Config

    class Config(kdtool.Config):
        """Settings of both caches."""

        rows_per_shard: int = kdtool.Field(default=256, ge=1, le=65536)
        """Rows per file, and the most that a killed recording loses."""
        batch: int = kdtool.Field(default=8, ge=1, le=4096)
        """Rows per forward pass of the teacher while recording."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._recalled: dict[Path, RecalledTokens] = {}
        self._lock = Lock()

    def recording(self, want: kdtool.SignalRequest) -> Recording:
        """Return the codec that selects and encodes each position's tokens."""
        raise NotImplementedError

    def bytes_a_token(self) -> float:
        """Return the approximate bytes per position, for a teacher as confident as small code models are."""
        raise NotImplementedError

    def records(self, want: kdtool.SignalRequest, offers: frozenset[kdtool.SignalKind]) -> kdtool.SignalRequest:
        """Request logits, from which the tokens are selected."""
        return replace(want, kinds=frozenset({"logits"}), layers=())

    def kdtool_record(
        self, run: kdtool.RunInfo, rows: kdtool.RowSource, source: kdtool.SignalSource, folder: Path
    ) -> int:
        """Record all rows that are still missing.

        Raises:
            kdtool.StorageError: the disk is full or not writable.
            kdtool.PluginError: the teacher does not provide the requested signal, or is not the one recorded so far.
        """
        from kdtool_torch import record_rows

        return record_rows(
            run, rows, source, folder, self.recording(source.want), self.config.rows_per_shard, self.config.batch
        )

    def kdtool_recall(self, batch: kdtool.Batch, want: kdtool.SignalRequest, folder: Path) -> kdtool.Signal:
        """Return the recorded tokens, on the batch's device.

        Raises:
            kdtool.StorageError: a row is missing, or a file is damaged.
        """
        from kdtool_caches._recalled import RecalledTokens

        with self._lock:
            if folder not in self._recalled:
                self._recalled[folder] = RecalledTokens(folder, self.form)
            recorded = self._recalled[folder]
        return recorded.signal(batch)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_torch import pick_device, recording_estimates

        from kdtool_caches._token_targets import chunk_bytes

        rows, working = (self.config.rows_per_shard, self.config.batch), 2 * chunk_bytes(pick_device())
        yield from recording_estimates(ahead, lambda *_: self.bytes_a_token(), lambda _: 0, *rows, working=working)

    def kdtool_close(self) -> None:
        """Close the files."""
        self._recalled.clear()


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
        from kdtool_caches._token_targets import SampledTargets

        config, systematic = self.config, self.config.design == "systematic"
        noise = {"seed": config.seed, "alternatives": config.alternatives}
        return SampledTargets(want.temperature, config.samples, systematic=systematic, **noise)

    def bytes_a_token(self) -> float:
        return (
            self.config.alternatives * 1.6 * float(self.config.samples**0.7)
        )  # measured: 13 at 20 samples, 39 at 100 (docs/science/gradient-angle.md)


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
        from kdtool_caches._token_targets import TeacherTopKTargets, TopKTargets

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
