"""Select a few tokens of each labelled position, a row as bytes: sampled, top-k, or the top-k that a teacher returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_caches._codec import encode
from kdtool_caches._sampling import count_samples, independent_points, sample_tokens, systematic_points

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CHUNK_BYTES", "STEP", "TOKENS", "SampledTargets", "TeacherTopKTargets", "TokenTargets", "TopKTargets"]

TOKENS = "tokens-{}"
"""Tensor name, by the number of the alternative."""
STEP = 1 / 2048
"""Top-k probabilities are stored as −log p in multiples of this: within 0.03 %."""
CHUNK_BYTES = 1 << 25
"""Bytes for cumulative probabilities, in float64, while sampling."""


class TokenTargets(ABC):
    """Selects a few tokens of each position, with an integer each; see `kdtool_torch.Recording`."""

    total: int | None = None
    """Sum of a position's numbers; None if it varies."""
    alternatives: int = 1
    """Number of independent selections kept per row."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    @abstractmethod
    def select(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
        """Yield each alternative's tokens [C, K], padded with -1, and numbers from 1, padded with 0, of each chunk of a row.

        A chunk holds the probabilities [C, V] of some of the row's positions, in order.
        """

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return the facts that decoding needs."""
        return {}, {"temperature": self._temperature, "total": self.total, "alternatives": self.alternatives}

    def encode_rows(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Iterator[Mapping[str, Tensor]]:
        """Encode each row's tokens.

        Raises:
            kdtool.PluginError: the signal lacks logits of some labelled positions.
        """
        import torch
        from kdtool_torch import NO_LABEL

        counts = (batch.labels != NO_LABEL).sum(1).tolist()
        given = None if signal.lazy is None else len(signal.lazy.hidden)
        if signal.lazy is None or given != sum(counts):
            raise kdtool.PluginError(
                f"the teacher was asked for logits of {sum(counts)} positions, but returned {given or 'none'}; return the "
                "lazy logits of all labelled positions"
            )
        head = signal.lazy.head
        for key, labels, states in zip(
            batch.row_keys, batch.labels, torch.split(signal.lazy.hidden, counts), strict=True
        ):
            parts = list(self.select(key, len(states), self._probabilities(states, head)))
            row_labels = labels[labels != NO_LABEL]
            chosen = ([part[number] for part in parts] for number in range(self.alternatives))
            yield {TOKENS.format(number): _bytes(each, row_labels, self.total) for number, each in enumerate(chosen)}

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
    """Samples tokens, with their counts; a row's samples depend only on its key, the seed and the alternative."""

    def __init__(
        self, temperature: float, samples: int, *, systematic: bool, seed: int = 0, alternatives: int = 1
    ) -> None:
        super().__init__(temperature)
        self.total = samples
        self.alternatives = alternatives
        self._seed = seed
        self._samples = samples
        self._systematic = systematic

    def select(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
        """Sample tokens and count them."""
        points = [self._points(f"{self._seed} {number} {key}", positions) for number in range(self.alternatives)]
        for rows, probabilities in chunks:
            yield [
                count_samples(sample_tokens(probabilities, of_alternative[rows].to(probabilities.device)))
                for of_alternative in points
            ]

    def _points(self, source: str, positions: int) -> Tensor:
        import torch

        seed = int.from_bytes(sha256(source.encode()).digest()[:8], "big") >> 1
        generator = torch.Generator().manual_seed(seed)
        if self._systematic:
            return systematic_points(torch.rand(positions, generator=generator, dtype=torch.float64), self._samples)
        return independent_points(torch.rand(positions, self._samples, generator=generator, dtype=torch.float64))


class TopKTargets(TokenTargets):
    """Selects the k likeliest tokens; probability p is stored as 1 − round(log p / STEP)."""

    def __init__(self, temperature: float, k: int) -> None:
        super().__init__(temperature)
        self._k = k

    def select(
        self, key: str, positions: int, chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
        """Select the likeliest tokens."""
        for _, probabilities in chunks:
            likeliest, ids = probabilities.topk(min(self._k, probabilities.shape[1]))
            yield [(ids, _steps(likeliest))]


class TeacherTopKTargets:
    """Keeps the k likeliest tokens of a teacher that returns tokens instead of logits, such as a server."""

    def __init__(self, k: int) -> None:
        self._k = k

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return the facts that decoding needs."""
        return {}, {"temperature": _top_k_tokens(signal).temperature, "total": None, "alternatives": 1}

    def encode_rows(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Iterator[Mapping[str, Tensor]]:
        """Encode each row's tokens.

        Raises:
            kdtool.PluginError: the signal lacks top-k tokens of some labelled positions.
        """
        import torch
        from kdtool_torch import NO_LABEL

        top, counts = _top_k_tokens(signal), (batch.labels != NO_LABEL).sum(1).tolist()
        if len(top.ids) != sum(counts):
            raise kdtool.PluginError(
                f"the teacher was asked for top-k tokens of {sum(counts)} positions, but returned {len(top.ids)}; return "
                "those of all labelled positions"
            )
        weights, places = top.weights.topk(min(self._k, top.weights.shape[1]))
        ids = top.ids.long().gather(1, places)
        numbers = _steps(weights).masked_fill(ids < 0, 0)
        for labels, *tokens in zip(batch.labels, torch.split(ids, counts), torch.split(numbers, counts), strict=True):
            yield {TOKENS.format(0): _bytes([(tokens[0], tokens[1])], labels[labels != NO_LABEL], None)}


def _top_k_tokens(signal: kdtool.Signal) -> kdtool.SparseTokens:
    if signal.sparse is None or signal.sparse.form != "top-k":
        raise kdtool.PluginError("the teacher was asked for top-k tokens, but its signal holds none; set Signal.sparse")
    return signal.sparse


def _steps(probabilities: Tensor) -> Tensor:
    return (probabilities.clamp(min=1e-30).log() / -STEP).round().long() + 1


def _bytes(parts: Sequence[tuple[Tensor, Tensor]], labels: Tensor, total: int | None) -> Tensor:
    """Encode a row with these labels, given its tokens and numbers in chunks."""
    import torch

    ids, numbers = _concatenate(parts)
    return torch.frombuffer(
        bytearray(encode(ids.numpy(), numbers.numpy(), labels.cpu().numpy(), total)), dtype=torch.uint8
    )


def _concatenate(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Concatenate the chunks' tokens and numbers on the CPU, padded to the widest."""
    import torch
    from torch.nn.functional import pad

    width = max((ids.shape[1] for ids, _ in parts), default=0)
    empty = torch.zeros(0, width, dtype=torch.int64)
    ids = [pad(ids.cpu(), (0, width - ids.shape[1]), value=-1) for ids, _ in parts]
    numbers = [pad(numbers.cpu(), (0, width - numbers.shape[1])) for _, numbers in parts]
    return torch.cat([empty, *ids]), torch.cat([empty, *numbers])
