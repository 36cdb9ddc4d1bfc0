"""Overlap of the student's and the teacher's likeliest tokens, and the early verdict that follows from it.

Both follow Li et al., "Rethinking On-Policy Distillation of Large Language Models", arXiv 2604.13016. Logged are estimates
from some positions of the steps that measure gradients. The verdict compares the overlap at all positions of the same rows
before the first step and after the first 5 % of the steps: in runs that succeed it grows from the start, in those that fail
it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import kdtool
import torch
from torch import Tensor

from kdtool_torch.device import sum_over_ranks
from kdtool_torch.head import HeadWork
from kdtool_torch.inputs import RowsInOrder
from kdtool_torch.stats import StepFigures, evenly_spread
from kdtool_torch.terms import BoundTerm

if TYPE_CHECKING:
    from kdtool_torch.trainer.loop import TrainingLoop
    from kdtool_torch.trainer.progress import Progress
    from kdtool_torch.trainer.settings import StandardTrainerConfig

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


_EARLY, _FEWEST_STEPS = 20, 10
"""The verdict comes after steps / 20, if that is at least ten steps."""


_SHARE, _MOST, _BLOCKS = 200, 16_384, 32
"""The verdict reads the rows of steps / 200 steps, at most 16,384 positions, in blocks."""


_LEAST_GROWTH, _ENOUGH = 0.002, 0.9
"""A phase is hopeless if its overlap grew by less than the first, unless it began above the second."""


class EarlyVerdict:
    """The verdict on a phase of at least 200 steps, if the first token loss with a teacher receives its likeliest tokens.

    It measures the last rows of the first epoch, none of which is learned before the second time, unless there are few.

    Args:
        terms: the phase's token losses.
        compute: returns what a function makes of some rows' work; the same random numbers are drawn each time.
    """

    def __init__(
        self,
        config: StandardTrainerConfig,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        terms: Sequence[BoundTerm],
        compute: Callable[[Callable[[HeadWork], Tensor], Sequence[kdtool.Row]], Tensor],
    ) -> None:
        self._config, self._run, self._phase, self._compute = config, run, phase, compute
        form = next((bound.form for bound in terms if bound.form != "none"), "none")
        self.has_overlap = form in ("dense", "top-k")
        early = phase.steps // _EARLY
        self.step = early if self.has_overlap and early >= _FEWEST_STEPS else 0

    def begin(self, progress: Progress) -> None:
        """Measure the overlap before the first step."""
        if self.step:
            progress.overlap = self._measure()
        elif not self.has_overlap and self._run.rank == 0 and any(term.teachers for term in self._phase.terms):
            self._run.say("overlap: not measured, since no loss receives a teacher's logits or its top-k tokens")

    def after(self, loop: TrainingLoop) -> None:
        """Report after a step whether the overlap grew, if the verdict is due."""
        progress, step = loop.progress, loop.step
        if step != self.step or not progress.overlap:
            return
        growth = Growth(progress.overlap, self._measure(), step)
        if growth.is_hopeless:
            progress.hopeless = growth.describe()
        if self._run.rank == 0:
            self._run.say(growth.describe())

    def _measure(self) -> list[list[float]]:
        """Return the means of the figures in each block of successive positions; nothing without positions."""
        order = RowsInOrder(self._phase.rows, len(self._phase.rows), self._run.seed)
        rows_per_step = self._config.rows_per_step or self._config.batch * self._config.accumulation * self._run.world
        figures, positions, end = list[Tensor](), 0, len(order)
        first = end - -(-self._phase.steps * rows_per_step // _SHARE)
        while end > max(0, first) and positions < _MOST:
            rows = [order[index] for index in range(max(0, end - self._config.batch), end)]
            figures.append(self._compute(overlaps_of_all, rows))
            positions, end = positions + len(figures[-1]), end - len(rows)
        blocks = torch.cat(figures).tensor_split(max(1, min(positions, _BLOCKS)))
        means: list[list[float]] = torch.stack([block.mean(0) for block in blocks]).tolist()
        return means if positions else []


@dataclass(frozen=True)
class Growth:
    """Growth of the overlap on the same text: the figures of each block before the first step, and after `step`."""

    before: Sequence[Sequence[float]]
    after: Sequence[Sequence[float]]
    step: int

    @property
    def bounds(self) -> tuple[float, float]:
        """The growth minus and plus two standard errors, of the differences of the blocks."""
        grown = [after[0] - before[0] for before, after in zip(self.before, self.after, strict=True)]
        error = 2 * stdev(grown) / len(grown) ** 0.5 if len(grown) > 1 else 1.0
        return fmean(grown) - error, fmean(grown) + error

    @property
    def is_hopeless(self) -> bool:
        """True if the growth is below 0.2 percentage points with its noise, and the overlap was below 90 %."""
        return self.bounds[1] < _LEAST_GROWTH and _mean(self.before)[0] < _ENOUGH

    def describe(self) -> str:
        """Return the verdict in words."""
        (low, high), (ratio, of_student, of_teacher) = self.bounds, _mean(self.after)
        overlap = (
            f"of the student's {LIKELIEST} likeliest tokens {_mean(self.before)[0]:.1%} were among the teacher's before "
            f"training, and {ratio:.1%} after step {self.step:,} (difference {100 * low:+.1f} to {100 * high:+.1f} points); "
            f"these have {of_student:.0%} of the student's probability and {of_teacher:.0%} of the teacher's"
        )
        if not self.is_hopeless:
            return f"overlap: {overlap}: {'it grows' if low > 0 else 'too early to tell whether it grows'}"
        return (
            f"overlap: {overlap}. It did not grow in the first 5 % of the steps, as in runs that fail (arXiv 2604.13016). "
            "Their remedies: train on text that the teacher wrote first (corpus `answers`), use prompts and a template that "
            "the teacher was tuned on, or take a teacher closer to the student. Check learning_rate, too"
        )


def _mean(blocks: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*blocks, strict=True)]
