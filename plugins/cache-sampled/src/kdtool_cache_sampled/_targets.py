"""A few tokens of each labelled position, a row as bytes: drawn, the likeliest, or those that the teacher itself names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_cache_sampled._codec import encode
from kdtool_cache_sampled._draws import counted, drawn, independent_points, systematic_points

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHUNK_BYTES", "STEP", "TOKENS", "SampledTargets", "TeacherTopKTargets", "TokenTargets", "TopKTargets"]

TOKENS = "tokens-{}"
"""The name of a tensor, by the number of the alternative."""
STEP = 1 / 2048
"""A likeliest token's probability is kept as a number of such steps of −log p: within 0.03 %."""
CHUNK_BYTES = 1 << 25
"""Memory for cumulative probabilities, in float64, while tokens are drawn."""


class TokenTargets(ABC):
    """A few tokens of each position, with a whole number each; see `kdtool_shards.Recording`."""

    total: int | None = None
    """The sum of a position's numbers, None where it may be anything."""
    alternatives: int = 1
    """Number of independent choices of tokens are kept of a row."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    @abstractmethod
    def select(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
        """Yield each alternative's tokens [C, K], padded with -1, and numbers from 1, padded with 0, of each chunk of a row.

        A chunk are the probabilities [C, V] of some of the row's positions, in order.
        """

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Keep what says how the numbers are to be read."""
        return {}, {"temperature": self._temperature, "total": self.total, "alternatives": self.alternatives}

    def encode_rows(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Iterator[Mapping[str, Tensor]]:
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
            parts = list(self.select(key, len(states), self._probabilities(states, head)))
            own = labels[labels != NO_LABEL]
            chosen = ([part[number] for part in parts] for number in range(self.alternatives))
            yield {TOKENS.format(number): _bytes(each, own, self.total) for number, each in enumerate(chosen)}

    def _probabilities(self, states: Tensor, head: kdtool.Head) -> Iterator[tuple[slice, Tensor]]:
        size = max(1, CHUNK_BYTES // (8 * head.vocabulary))
        for start in range(0, len(states), size):
            rows = slice(start, start + size)
            probabilities = (head.logits(states[rows]).float() / self._temperature).softmax(-1)
            yield (
                rows,
                probabilities.cpu() if probabilities.device.type == "mps" else probabilities,
            )  # float64 is missing


class SampledTargets(TokenTargets):
    """Tokens drawn from the teacher, with how often; a row's draws depend on its key, the seed and the alternative alone."""

    def __init__(
        self, temperature: float, draws: int, *, systematic: bool, seed: int = 0, alternatives: int = 1
    ) -> None:
        super().__init__(temperature)
        self.total = draws
        self.alternatives = alternatives
        self._seed = seed
        self._draws = draws
        self._systematic = systematic

    def select(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
        """Draw, and count."""
        points = [self._points(f"{self._seed} {number} {key}", positions) for number in range(self.alternatives)]
        for rows, probabilities in chunks:
            yield [counted(drawn(probabilities, own[rows].to(probabilities.device))) for own in points]

    def _points(self, source: str, positions: int) -> Tensor:
        import torch

        seed = int.from_bytes(sha256(source.encode()).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(seed)
        if self._systematic:
            return systematic_points(torch.rand(positions, generator=generator, dtype=torch.float64), self._draws)
        return independent_points(torch.rand(positions, self._draws, generator=generator, dtype=torch.float64))


class TopKTargets(TokenTargets):
    """The k likeliest tokens; the number of one of probability p is 1 − round(log p / STEP)."""

    def __init__(self, temperature: float, k: int) -> None:
        super().__init__(temperature)
        self._k = k

    def select(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
        """Take the likeliest."""
        for _, probabilities in chunks:
            likeliest, ids = probabilities.topk(min(self._k, probabilities.shape[1]))
            yield [(ids, _steps(likeliest))]


class TeacherTopKTargets:
    """The k likeliest of the tokens that a teacher names itself, such as a server, which gives no logits."""

    def __init__(self, k: int) -> None:
        self._k = k

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Keep what says how the numbers are to be read."""
        return {}, {"temperature": _told(signal).temperature, "total": None, "alternatives": 1}

    def encode_rows(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Iterator[Mapping[str, Tensor]]:
        """Keep each row's tokens.

        Raises:
            kdtool.PluginError: the signal holds no top-k tokens, or not of all labelled positions.
        """
        import torch
        from kdtool_rows import NO_LABEL

        told, counts = _told(signal), (batch.labels != NO_LABEL).sum(1).tolist()
        if len(told.ids) != sum(counts):
            raise kdtool.PluginError(
                f"the teacher was asked for top-k tokens of {sum(counts)} positions and gave {len(told.ids)}"
            )
        weights, places = told.weights.topk(min(self._k, told.weights.shape[1]))
        ids = told.ids.long().gather(1, places)
        numbers = _steps(weights).masked_fill(ids < 0, 0)
        for labels, *own in zip(batch.labels, torch.split(ids, counts), torch.split(numbers, counts), strict=True):
            yield {TOKENS.format(0): _bytes([(own[0], own[1])], labels[labels != NO_LABEL], None)}


def _told(signal: kdtool.Signal) -> kdtool.SparseTokens:
    if signal.sparse is None or signal.sparse.form != "top-k":
        raise kdtool.PluginError("the teacher was asked for top-k tokens, and its signal holds none")
    return signal.sparse


def _steps(probabilities: Tensor) -> Tensor:
    return (probabilities.clamp(min=1e-30).log() / -STEP).round().long() + 1


def _bytes(parts: Sequence[tuple[Tensor, Tensor]], labels: Tensor, total: int | None) -> Tensor:
    """Return the bytes of a row of these labels, of which `parts` are chunks."""
    import torch

    ids, numbers = _joined(parts)
    return torch.frombuffer(
        bytearray(encode(ids.numpy(), numbers.numpy(), labels.cpu().numpy(), total)), dtype=torch.uint8
    )


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the chunks' tokens and numbers one after the other, on the CPU, as wide as the widest."""
    import torch
    from torch.nn.functional import pad

    width = max((ids.shape[1] for ids, _ in parts), default=0)
    empty = torch.zeros(0, width, dtype=torch.int64)
    ids = [pad(ids.cpu(), (0, width - ids.shape[1]), value=-1) for ids, _ in parts]
    numbers = [pad(numbers.cpu(), (0, width - numbers.shape[1])) for _, numbers in parts]
    return torch.cat([empty, *ids]), torch.cat([empty, *numbers])
