"""Chunks of positions for the suites of losses and weightings. Torch is imported when a function is called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kdtool import ChosenTokens, DenseTokens, SignalKind, SparseTokens, TokenChunk

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["part_of", "passes_of", "teacher_tokens", "with_passes"]


def teacher_tokens(
    need: frozenset[SignalKind], logits: Tensor, temperature: float
) -> DenseTokens | SparseTokens | ChosenTokens:
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
        samples = torch.multinomial(probabilities, 5, replacement=True, generator=torch.Generator().manual_seed(1))
        return SparseTokens(samples.int(), torch.full(samples.shape, 0.2), "sampled", temperature)
    if "chosen" in need:
        ids = logits.roll(1, 0).topk(6).indices
        return ChosenTokens(ids.int(), probabilities.gather(-1, ids).log(), temperature)
    raise TypeError(f"a token loss sees logits, sampled, top-k or chosen tokens, and none of them is in {sorted(need)}")


def passes_of(chunk: TokenChunk) -> tuple[Tensor, ...]:
    """Return the student's logits of each pass."""
    return (chunk.student_logits,) if chunk.second_logits is None else (chunk.student_logits, chunk.second_logits)


def with_passes(chunk: TokenChunk, *logits: Tensor) -> TokenChunk:
    """Return the chunk with other logits of the student, of one pass or two."""
    return replace(chunk, student_logits=logits[0], second_logits=logits[1] if len(logits) > 1 else None)


def part_of(chunk: TokenChunk, rows: slice) -> TokenChunk:
    """Return some positions of a chunk, in separate memory."""
    teacher = chunk.teacher
    if isinstance(teacher, DenseTokens):
        teacher = DenseTokens(teacher.logits[rows])
    elif isinstance(teacher, ChosenTokens):
        teacher = replace(teacher, ids=teacher.ids[rows], log_probabilities=teacher.log_probabilities[rows])
    elif teacher is not None:
        teacher = replace(teacher, ids=teacher.ids[rows], weights=teacher.weights[rows])
    return replace(
        with_passes(chunk, *(logits[rows].clone() for logits in passes_of(chunk))),
        labels=chunk.labels[rows],
        teacher=teacher,
        positions=chunk.positions[rows],
        columns={name: column[rows] for name, column in chunk.columns.items()},
    )
