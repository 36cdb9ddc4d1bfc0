"""Chunks of positions for the suites of losses and weightings. Torch is imported when a function is called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kdtool._contract.signals import DenseTokens, Offer, SparseTokens, TokenChunk

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["part_of", "teacher_tokens"]


def teacher_tokens(need: frozenset[Offer], logits: Tensor, temperature: float) -> DenseTokens | SparseTokens:
    """Return a teacher's tokens in the first form of `need` that token losses see, from its logits [C, V]."""
    import torch

    if "logits" in need:
        return DenseTokens(logits)
    probabilities = (logits / temperature).softmax(-1).float()
    if "top-k" in need:
        weights, ids = probabilities.topk(4)
        ids, weights = ids.clone(), weights.clone()
        ids[0, 2:], weights[0, 2:] = -1, 0
        return SparseTokens(ids.int(), weights, "top-k", temperature)
    if "sampled" in need:
        draws = torch.multinomial(probabilities, 5, replacement=True, generator=torch.Generator().manual_seed(1))
        return SparseTokens(draws.int(), torch.full(draws.shape, 0.2), "sampled", temperature)
    raise TypeError(f"a token loss sees logits, sampled or top-k tokens, and none of them is in {sorted(need)}")


def part_of(chunk: TokenChunk, rows: slice) -> TokenChunk:
    """Return some positions of a chunk, on memory of their own."""
    teacher = chunk.teacher
    if isinstance(teacher, DenseTokens):
        teacher = DenseTokens(teacher.logits[rows])
    elif teacher is not None:
        teacher = replace(teacher, ids=teacher.ids[rows], weights=teacher.weights[rows])
    return replace(
        chunk,
        student_logits=chunk.student_logits[rows].clone(),
        labels=chunk.labels[rows],
        teacher=teacher,
        positions=chunk.positions[rows],
        columns={name: column[rows] for name, column in chunk.columns.items()},
    )
