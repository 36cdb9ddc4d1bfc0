"""What is kept of a teacher's logits: a few tokens of each labelled position, a row as bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_cache_sampled._codec import encode
from kdtool_cache_sampled._draws import counted, drawn, independent_points, systematic_points

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHUNK_BYTES", "STEP", "TOKENS", "KeptDraws", "KeptLikeliest", "KeptTokens"]

TOKENS = "tokens"
STEP = 1 / 2048
"""A likeliest token's probability is kept as a number of such steps of −log p: within 0.03 %."""
CHUNK_BYTES = 1 << 25
"""Memory for cumulative probabilities, in float64, while tokens are drawn."""


class KeptTokens(ABC):
    """A few tokens of each position, with a whole number each; see `kdtool_shards.Recording`."""

    total: int | None = None
    """What the numbers of a position add up to, None where it may be anything."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    @abstractmethod
    def picked(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield tokens [C, K], padded with -1, and their numbers from 1, padded with 0, of each chunk of a row.

        A chunk are the probabilities [C, V] of some of the row's positions, in order.
        """

    def once(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Keep what says how the numbers are to be read."""
        return {}, {"temperature": self._temperature, "total": self.total}

    def of_rows(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Iterator[Mapping[str, Tensor]]:
        """Keep each row's tokens.

        Raises:
            kdtool.PluginError: the signal holds no logits, or not of all labelled positions.
        """
        import torch
        from kdtool_rows import NO_LABEL

        counts = (batch.labels != NO_LABEL).sum(1).tolist()
        given = None if signal.lazy is None else len(signal.lazy.hidden)
        if signal.lazy is None or given != sum(counts):
            raise kdtool.PluginError(f"the teacher was asked for logits of {sum(counts)} positions and gave {given}")
        head = signal.lazy.head
        for key, labels, states in zip(
            batch.row_keys, batch.labels, torch.split(signal.lazy.hidden, counts), strict=True
        ):
            parts = self.picked(key, len(states), self._probabilities(states, head))
            ids, numbers = _joined(list(parts))
            blob = encode(ids.numpy(), numbers.numpy(), labels[labels != NO_LABEL].cpu().numpy(), self.total)
            yield {TOKENS: torch.frombuffer(bytearray(blob), dtype=torch.uint8)}

    def _probabilities(self, states: Tensor, head: kdtool.Head) -> Iterator[tuple[slice, Tensor]]:
        size = max(1, CHUNK_BYTES // (8 * head.vocabulary))
        for start in range(0, len(states), size):
            rows = slice(start, start + size)
            probabilities = (head.logits(states[rows]).float() / self._temperature).softmax(-1)
            yield (
                rows,
                probabilities.cpu() if probabilities.device.type == "mps" else probabilities,
            )  # float64 is missing


class KeptDraws(KeptTokens):
    """Tokens drawn from the teacher, with how often; a row's draws depend on its key alone."""

    def __init__(self, temperature: float, draws: int, *, systematic: bool) -> None:
        super().__init__(temperature)
        self.total = draws
        self._draws = draws
        self._systematic = systematic

    def picked(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw, and count."""
        points = self._points(key, positions)
        for rows, probabilities in chunks:
            yield counted(drawn(probabilities, points[rows].to(probabilities.device)))

    def _points(self, key: str, positions: int) -> Tensor:
        import torch

        seed = int.from_bytes(sha256(key.encode()).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(seed)
        if self._systematic:
            return systematic_points(torch.rand(positions, generator=generator, dtype=torch.float64), self._draws)
        return independent_points(torch.rand(positions, self._draws, generator=generator, dtype=torch.float64))


class KeptLikeliest(KeptTokens):
    """The k likeliest tokens; the number of one of probability p is 1 − round(log p / STEP)."""

    def __init__(self, temperature: float, k: int) -> None:
        super().__init__(temperature)
        self._k = k

    def picked(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Take the likeliest."""
        for _, probabilities in chunks:
            likeliest, ids = probabilities.topk(min(self._k, probabilities.shape[1]))
            yield ids, (likeliest.clamp(min=1e-30).log() / -STEP).round().long() + 1


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the chunks' tokens and numbers one after the other, on the CPU, as wide as the widest."""
    import torch
    from torch.nn.functional import pad

    width = max((ids.shape[1] for ids, _ in parts), default=0)
    empty = torch.zeros(0, width, dtype=torch.int64)
    ids = [pad(ids.cpu(), (0, width - ids.shape[1]), value=-1) for ids, _ in parts]
    numbers = [pad(numbers.cpu(), (0, width - numbers.shape[1])) for _, numbers in parts]
    return torch.cat([empty, *ids]), torch.cat([empty, *numbers])
