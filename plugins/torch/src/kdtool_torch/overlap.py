"""Overlap of the student's and the teacher's likeliest tokens.

It follows Li et al., "Rethinking On-Policy Distillation of Large Language Models", arXiv 2604.13016. Logged are estimates
from some positions of the steps that measure gradients.
"""

from __future__ import annotations

import kdtool
import torch
from torch import Tensor

from kdtool_torch.device import sum_over_ranks
from kdtool_torch.head import HeadWork
from kdtool_torch.stats import StepFigures, evenly_spread

OVERLAP_FIGURES = ("overlap_ratio", "overlap_student_mass", "overlap_teacher_mass")
"""Names of the columns of `overlaps`."""
LIKELIEST = 16
"""k, as in the paper."""


def overlaps(chunk: kdtool.TokenChunk) -> Tensor:
    """Return the figures of each position, [C, 3] float32 from 0 to 1: the ratio, and the masses of student and teacher.

    S and T are the k likeliest tokens of student and teacher; k is 16, or less if the teacher's signal has fewer tokens. The
    ratio is |S ∩ T| / k (the paper's equation 6, `distillation/overlap_ratio` of verl). The masses are each model's
    probability of S ∩ T (equations 9 and 10), at temperature 1, or at the one at which top-k tokens were recorded.
    """
    logits, teacher = chunk.student_logits.float(), chunk.teacher
    if isinstance(teacher, kdtool.SparseTokens):
        logits = logits / teacher.temperature
        teacher_top, places = teacher.weights.topk(min(LIKELIEST, teacher.weights.shape[-1]))
        teacher_ids = teacher.ids.long().gather(-1, places)
    else:
        assert isinstance(teacher, kdtool.DenseTokens)  # noqa: S101 - see `EarlyVerdict`
        teacher_top, teacher_ids = _likeliest(teacher.logits.float(), LIKELIEST)
    student_top, student_ids = _likeliest(logits, teacher_ids.shape[-1])
    same = student_ids[:, :, None] == teacher_ids[:, None, :]
    in_teacher, in_student = same.any(-1), same.any(-2)
    return torch.stack(
        [in_teacher.float().mean(-1), (student_top * in_teacher).sum(-1), (teacher_top * in_student).sum(-1)], -1
    )


def overlaps_of_all(work: HeadWork) -> Tensor:
    """Return the `overlaps` of a micro-batch's N positions, [N, 3], without gradient."""
    return _overlaps_at(work, torch.arange(work.hidden[0].shape[0], device=work.hidden[0].device))


def sampled_overlaps(work: HeadWork) -> Tensor:
    """Return the sums of the figures over some positions of a micro-batch, and the number of these, [4]."""
    found = _overlaps_at(work, evenly_spread(len(work.hidden[0]), work.hidden[0].device))
    return torch.cat([found, torch.ones_like(found[:, :1])], -1).sum(0)


def _overlaps_at(work: HeadWork, positions: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast(positions.device.type, enabled=False):
        parts = torch.split(positions, work.loss_chunk_size)  # without positions, one part that is empty
        return torch.cat([overlaps(work.loss.seen_by_weightings(work.chunk(part))) for part in parts])


def _likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return probabilities and ids of the likeliest tokens, [C, count]."""
    top, ids = logits.topk(min(count, logits.shape[-1]))
    return (top - logits.logsumexp(-1, keepdim=True)).exp(), ids


def report_overlap(read: StepFigures, run: kdtool.RunInfo) -> dict[str, float]:
    """Return the step's figures of the overlap by name, means over all ranks; nothing if it has no positions."""
    *sums, count = sum_over_ranks(read.overlap, run.world)
    return {name: value / count for name, value in zip(OVERLAP_FIGURES, sums, strict=True)} if count else {}
