"""Decode the signal of any batch of recorded rows. Called for every micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import kdtool
import torch
from kdtool_torch import NO_LABEL, RecordedRows, move, original_of

from kdtool_caches._codec import decode
from kdtool_caches._token_targets import STEP, TOKENS

__all__ = ["RecalledTokens"]


class RecalledTokens:
    """The signals of one folder. Threads may share it."""

    def __init__(self, folder: Path, form: Literal["sampled", "top-k"]) -> None:
        self._recorded = RecordedRows(folder)
        self._form = form

    def signal(self, batch: kdtool.Batch) -> kdtool.Signal:
        """Return the batch's tokens, on its device."""
        facts, labels = self._recorded.facts, original_of(batch.labels)
        blobs = [piece.numpy().tobytes() for piece in self._pieces(batch, facts["alternatives"])]
        decoded = decode(blobs, labels[labels != NO_LABEL].numpy(), facts["total"])
        ids, numbers = (torch.from_numpy(part) for part in decoded)
        weights = self._weights(ids, numbers, facts["total"])
        tokens = kdtool.SparseTokens(ids, weights, self._form, facts["temperature"])
        return kdtool.Signal(facts["fingerprint"], sparse=move(tokens, batch.labels.device))

    def _pieces(self, batch: kdtool.Batch, alternatives: int) -> Iterator[torch.Tensor]:
        """Yield each row's bytes, of the alternative whose turn it is."""
        turns = batch.turns or (0,) * len(batch.row_keys)
        for row, turn in zip(self._recorded.find(batch), turns, strict=True):
            yield from self._recorded.pieces([row], TOKENS.format(turn % alternatives))

    def _weights(self, ids: torch.Tensor, numbers: torch.Tensor, total: int | None) -> torch.Tensor:
        if total is not None:
            return numbers.float() / total
        weights = torch.where(ids >= 0, ((1 - numbers) * STEP).float().exp(), 0.0)
        return weights / weights.sum(-1, keepdim=True).clamp(min=1.0)  # rounded steps may add up to a little more
