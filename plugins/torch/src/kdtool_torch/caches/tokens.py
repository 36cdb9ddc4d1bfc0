"""A few tokens of each labelled position: sampled, top-k, or a teacher's own top-k; recorded and recalled.

Sampling is plain functions for any training loop. Relative frequencies are unbiased estimates of the teacher's
probabilities: both designs place points in the cumulative distribution, so E[count of v] = N · p_v for either. They
differ in the variance of the counts. Recorded tokens are decoded for every micro-batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import kdtool
import torch
from torch import Tensor

from kdtool_torch.batch import NO_LABEL, copy_to_host, move, original_of
from kdtool_torch.caches.codec import decode, encode
from kdtool_torch.device import free_gpu_bytes
from kdtool_torch.numerics import unrounded_logits
from kdtool_torch.shards import RecordedRows


def independent_points(uniform: Tensor) -> Tensor:
    """Return the points of N independent samples, ascending, from N uniform numbers per position [C, N].

    Random sampling knowledge distillation as published: Anshumann et al., arXiv 2503.16870, section 4.
    """
    return uniform.sort(-1).values


def systematic_points(offsets: Tensor, samples: int) -> Tensor:
    """Return points (k + u) / N for k = 0 … N − 1, [C, N], from one uniform number u per position [C].

    Systematic sampling (Madow and Madow, Annals of Mathematical Statistics 15, 1944): the count of a token of probability p
    is N·p rounded down or up, while that of independent samples has the variance N·p·(1 − p).
    """
    return (torch.arange(samples, device=offsets.device) + offsets[:, None]) / samples


def sample_tokens(probabilities: Tensor, points: Tensor) -> Tensor:
    """Return the tokens at `points` of the cumulative distribution over the vocabulary, ascending like the points.

    Args:
        probabilities: [C, V], not negative; need not sum to 1 exactly. Tokens of probability 0 are never drawn.
        points: [C, N] in [0, 1), ascending.

    Returns:
        [C, N] int64.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    tokens = torch.searchsorted(cumulative, points.double() * cumulative[:, -1:], right=True)
    # A point that rounding puts at the very end belongs to the last token that is possible at all.
    possible = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return tokens.minimum(possible)


def count_samples(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct tokens, ids [C, N] ascending and padded at the end with -1, and their counts, padded with 0.

    Args:
        tokens: [C, N], ascending.
    """
    begins = torch.ones_like(tokens, dtype=torch.bool)
    begins[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    column = begins.cumsum(-1) - 1
    ids, counts = torch.full_like(tokens, -1), torch.zeros_like(tokens)
    return ids.scatter_(1, column, tokens), counts.scatter_add_(1, column, torch.ones_like(tokens))


TOKENS = "tokens-{}"
"""Tensor name, by the number of the alternative."""
STEP = 1 / 2048
"""Top-k probabilities are stored as −log p in multiples of this: within 0.03 %."""
_CPU_CHUNK, _GPU_CHUNK = 1 << 25, 1 << 30
_GPU_SHARE = 8
"""A GPU's free memory is divided by this: a chunk's logits and probabilities take three times its cumulative ones."""


def chunk_bytes(device: torch.device) -> int:
    """Return the bytes of the cumulative probabilities, in float64, of the positions that are sampled at once on a device.

    On a CPU a chunk stays in its cache; a GPU wants large ones. A power of two, so that chunks, and with them the rounding
    of sums, do not depend on a few megabytes.
    """
    free = free_gpu_bytes(device)
    return _CPU_CHUNK if free is None else min(_GPU_CHUNK, 1 << max(0, (free // _GPU_SHARE).bit_length() - 1))


class TokenTargets(ABC):
    """Selects a few tokens of each position, with an integer each; see `kdtool_torch.Recording`."""

    total: int | None = None
    """Sum of a position's numbers; None if it varies."""
    alternatives: int = 1
    """Number of independent selections kept per row."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    @abstractmethod
    def choose(
        self, keys: Sequence[str], counts: Sequence[int], chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[Tensor]]:
        """Yield ids and numbers of each chunk, and those of further alternatives after them.

        Args:
            keys: of the batch's rows.
            counts: labelled positions of each row, one after the other.
            chunks: slices of these positions, in order, each with its probabilities [C, V].

        Yields:
            ids [C, K], padded at the end with -1; numbers [C, K] from 1, padded with 0; K is the same for all chunks.
        """

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return the facts that decoding needs."""
        return {}, {"temperature": self._temperature, "total": self.total, "alternatives": self.alternatives}

    def select(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Callable[[], Iterator[Mapping[str, Tensor]]]:
        """Choose tokens on the device of the signal; a row's are encoded later.

        Raises:
            kdtool.PluginError: the signal lacks logits.
        """
        counts = (batch.labels != NO_LABEL).sum(1).tolist()
        if signal.lazy is None:
            raise kdtool.PluginError("the teacher was asked for logits, but its signal holds none; set Signal.lazy")
        chunks = self._probabilities(signal.lazy.hidden.detach(), signal.lazy.head)
        parts = list(self.choose(batch.row_keys, counts, chunks))
        return _encode_later(batch.labels, counts, parts, self.total)

    def _probabilities(self, states: Tensor, head: kdtool.Head) -> Iterator[tuple[slice, Tensor]]:
        size = max(1, chunk_bytes(states.device) // (8 * head.vocabulary))
        for start in range(0, max(1, len(states)), size):  # one empty chunk if no position has a label
            rows = slice(start, start + size)
            probabilities = (unrounded_logits(head, states[rows]).float() / self._temperature).softmax(-1)
            yield rows, probabilities.cpu() if probabilities.is_mps else probabilities  # which lacks float64


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

    def choose(
        self, keys: Sequence[str], counts: Sequence[int], chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[Tensor]]:
        """Sample tokens and count them."""
        points = [
            torch.cat([self._points(f"{self._seed} {number} {key}", n) for key, n in zip(keys, counts, strict=True)])
            for number in range(self.alternatives)
        ]
        for rows, probabilities in chunks:
            device = probabilities.device
            samples = (sample_tokens(probabilities, each[rows].to(device, non_blocking=True)) for each in points)
            yield [part for tokens in samples for part in count_samples(tokens)]

    def _points(self, source: str, positions: int) -> Tensor:
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

    def choose(
        self, keys: Sequence[str], counts: Sequence[int], chunks: Iterator[tuple[slice, Tensor]]
    ) -> Iterator[Sequence[Tensor]]:
        """Select the likeliest tokens."""
        for _, probabilities in chunks:
            likeliest, ids = probabilities.topk(min(self._k, probabilities.shape[1]))
            yield [ids, _steps(likeliest)]


class TeacherTopKTargets:
    """Keeps the k likeliest tokens of a teacher that returns tokens instead of logits, such as a server."""

    def __init__(self, k: int) -> None:
        self._k = k

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return the facts that decoding needs."""
        return {}, {"temperature": _top_k_tokens(signal).temperature, "total": None, "alternatives": 1}

    def select(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Callable[[], Iterator[Mapping[str, Tensor]]]:
        """Choose the likeliest of the teacher's tokens; a row's are encoded later.

        Raises:
            kdtool.PluginError: the signal lacks top-k tokens.
        """
        top, counts = _top_k_tokens(signal), (batch.labels != NO_LABEL).sum(1).tolist()
        weights, columns = top.weights.topk(min(self._k, top.weights.shape[1]))
        ids = top.ids.long().gather(1, columns)
        return _encode_later(batch.labels, counts, [[ids, _steps(weights).masked_fill(ids < 0, 0)]], None)


def _top_k_tokens(signal: kdtool.Signal) -> kdtool.SparseTokens:
    if signal.sparse is None or signal.sparse.form != "top-k":
        raise kdtool.PluginError("the teacher was asked for top-k tokens, but its signal holds none; set Signal.sparse")
    return signal.sparse


def _steps(probabilities: Tensor) -> Tensor:
    return (probabilities.clamp(min=1e-30).log() / -STEP).round().long() + 1


def _encode_later(
    labels: Tensor, counts: list[int], parts: Sequence[Sequence[Tensor]], total: int | None
) -> Callable[[], Iterator[Mapping[str, Tensor]]]:
    """Start to copy the chunks' tokens to main memory; the function that is returned encodes them row by row.

    `parts` are what `TokenTargets.choose` yields, `labels` [B, L] those of the batch.
    """
    copied = copy_to_host([torch.cat(chunks).int() for chunks in zip(*parts, strict=True)])

    def encode() -> Iterator[Mapping[str, Tensor]]:
        rows = zip(*(torch.split(tensor, counts) for tensor in copied()), strict=True)
        for row_labels, tokens in zip(labels, rows, strict=True):
            known = row_labels[row_labels != NO_LABEL]
            pairs = zip(tokens[::2], tokens[1::2], strict=True)
            yield {TOKENS.format(number): _bytes(*pair, known, total) for number, pair in enumerate(pairs)}

    return encode


def _bytes(ids: Tensor, numbers: Tensor, labels: Tensor, total: int | None) -> Tensor:
    """Encode a row's tokens, without columns of padding only."""
    width = int((ids >= 0).sum(1).max()) if len(ids) else 0
    packed = encode(ids[:, :width].long().numpy(), numbers[:, :width].long().numpy(), labels.numpy(), total)
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


class RecalledTokens:
    """The signals of one folder. Threads may share it."""

    def __init__(self, folder: Path, form: Literal["sampled", "top-k"]) -> None:
        self._recorded = RecordedRows(folder)
        self._form = form

    def signal(self, batch: kdtool.Batch, _: kdtool.SignalRequest) -> kdtool.Signal:
        """Return the batch's tokens, on its device; the request is the one that they were recorded for."""
        facts, labels = self._recorded.facts, original_of(batch.labels)
        blobs = [piece.numpy().tobytes() for piece in self._pieces(batch, facts["alternatives"])]
        decoded = decode(blobs, labels[labels != NO_LABEL].numpy(), facts["total"])
        ids, numbers = (torch.from_numpy(part) for part in decoded)
        weights = self._weights(ids, numbers, facts["total"])
        tokens = kdtool.SparseTokens(ids, weights, self._form, facts["temperature"])
        return kdtool.Signal(facts["fingerprint"], sparse=move(tokens, batch.labels.device))

    def _pieces(self, batch: kdtool.Batch, alternatives: int) -> Iterator[Tensor]:
        """Yield each row's bytes, of the alternative whose turn it is."""
        turns = batch.turns or (0,) * len(batch.row_keys)
        for row, turn in zip(self._recorded.find(batch), turns, strict=True):
            yield from self._recorded.pieces([row], TOKENS.format(turn % alternatives))

    def _weights(self, ids: Tensor, numbers: Tensor, total: int | None) -> Tensor:
        if total is not None:
            return numbers.float() / total
        weights = torch.where(ids >= 0, ((1 - numbers) * STEP).float().exp(), 0.0)
        return weights / weights.sum(-1, keepdim=True).clamp(min=1.0)  # rounded steps may add up to a little more
