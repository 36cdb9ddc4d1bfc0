"""The early verdict on a phase: whether the student's likeliest tokens become those of its teacher.

It compares their overlap at all positions of the same rows before the first step and after the first 5 % of the steps: in
runs that succeed it grows from the start, in those that fail it does not (Li et al., arXiv 2604.13016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import kdtool
import torch
from torch import Tensor

from kdtool_torch.head import HeadWork
from kdtool_torch.inputs import RowsInOrder
from kdtool_torch.overlap import LIKELIEST, overlaps_of_all
from kdtool_torch.terms import BoundTerm
from kdtool_torch.trainer.progress import Loop, Progress
from kdtool_torch.trainer.settings import StandardTrainerConfig

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

    def after(self, loop: Loop) -> None:
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
