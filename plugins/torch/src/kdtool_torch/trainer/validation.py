"""Validation during training: the recipe's evaluators, early stopping, and an early verdict on the overlap.

The loop asks after each step. Evaluators see the student in memory, in the precision in which it trains, and training
stops when it no longer improves. Their split `test` is the split `validation` here, since a student must not be
selected on the text that judges it.

The early verdict compares the overlap of the student's and the teacher's likeliest tokens at all positions of the same
rows before the first step and after the first 5 % of the steps: in runs that succeed it grows from the start, in those
that fail it does not (Li et al., arXiv 2604.13016).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import kdtool
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kdtool_torch.device import isolated_rng
from kdtool_torch.files import write_safetensors
from kdtool_torch.numerics import autocast_to
from kdtool_torch.stats import LIKELIEST
from kdtool_torch.terms import BoundTerm
from kdtool_torch.trainer.inputs import RowsInOrder
from kdtool_torch.trainer.progress import Progress
from kdtool_torch.trainer.settings import StandardTrainerConfig, Validation

_FOLDER = "validation"
_BEST = Path(_FOLDER, "best.safetensors")
"""Weights of the best student, next to the checkpoints and in each: the same file until a better student is found."""


@dataclass(frozen=True)
class Best:
    """The best validation so far: its step, its value, and the number of validations since."""

    step: int
    value: float
    since: int = 0


class Validator:
    """Asks the evaluators. On rank 0; `best` is None before the first validation, and if nothing is watched."""

    def __init__(
        self,
        config: Validation,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        student: kdtool.LanguageModel,
        compute: torch.dtype,
    ) -> None:
        self.best: Best | None = None
        self._config, self._run, self._student, self._compute = config, run, student, compute
        self._root, self._last = phase.checkpoints, phase.steps

    def due(self, step: int) -> bool:
        """Return whether the student is measured after this step: every `every` steps, and after the last."""
        return step % self._config.every == 0 or step == self._last

    @property
    def over(self) -> bool:
        """True if the student has not improved for `patience` validations."""
        return self.best is not None and self.best.since >= self._config.patience

    def measure(self, step: int, learned: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the evaluators' values by EVALUATOR.MEASUREMENT; keep the weights `learned` if the student is at its best.

        Raises:
            UsageError: what is watched is not measured.
        """
        measurements = self._measure(step)
        if self._config.watch is not None:
            self._compare(step, measurements[self._config.watch], learned)
        shown = ", ".join(f"{name} {measurement.value:.4g}" for name, measurement in measurements.items())
        best = f"; best after step {self.best.step}" if self.best else ""
        self._run.say(f"step {step:,} of {self._last:,}: {shown or 'nothing was measured'}{best}")
        return {name: measurement.value for name, measurement in measurements.items()}

    def try_out(self) -> None:
        """Have evaluators check the text; measure the student as it is if something is watched.

        So an impossible measurement fails before training.

        Raises:
            UsageError: an evaluator has nothing to measure on, or what is watched is not measured.
        """
        run = self._run_in(self._root / _FOLDER)
        for name in self._evaluators():
            try:
                problems = run.component(name, kdtool.Evaluator).kdtool_check(run, "text") or ()
            except kdtool.UsageError as error:
                problems = [str(error)]
            for problem in problems:
                raise kdtool.UsageError(
                    f"validation: {problem}. While a student learns, the split 'validation' stands for 'test'"
                )
        if self._config.watch is not None:
            self._measure(0)

    def restore(self, best: Mapping[str, Any], checkpoint: Path) -> None:
        """Restore the best validation and its weights from a checkpoint."""
        self.best = Best(**best)
        _link(checkpoint / _BEST, self._root / _BEST)

    def best_weights(self) -> dict[str, Tensor] | None:
        """Return the weights with which the student was best; None if it is best now."""
        if self.best is None or self.best.since == 0:
            return None
        file = self._root / _BEST
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise kdtool.StorageError(
                f"the best student, of step {self.best.step:,}, cannot be read: {file}: {error}; run the same command "
                "again, which resumes from the last checkpoint"
            ) from error

    def add_best(self, checkpoint: Path) -> None:
        """Add the best weights so far to a checkpoint that is being written."""
        if self.best is not None:
            _link(self._root / _BEST, checkpoint / _BEST)

    def _measure(self, step: int) -> dict[str, kdtool.Measurement]:
        by_name, watched = dict(self._measurements(step)), self._config.watch
        if watched is not None and watched not in by_name:
            raise kdtool.UsageError(
                f"validation.watch: {watched} cannot be measured while the student learns; measured were: "
                f"{', '.join(by_name) or 'none'}. Needed are text in the split validation, and an evaluator that measures "
                "only the student"
            )
        return by_name

    def _compare(self, step: int, measured: kdtool.Measurement, learned: Mapping[str, Tensor]) -> None:
        best = self.best
        sign = 1 if measured.higher_is_better else -1
        if best is None or sign * measured.value > sign * best.value:
            self._keep(learned)
            self.best = Best(step, measured.value)
        else:
            self.best = replace(best, since=best.since + 1)

    def _keep(self, learned: Mapping[str, Tensor]) -> None:
        """Write the learned weights. They are committed with the next checkpoint; before it, none refers to them."""
        file = self._root / _BEST
        partial = file.with_suffix(".writing")
        try:
            write_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in learned.items()}, partial)
            partial.replace(file)
        except (OSError, SafetensorError) as error:
            raise kdtool.StorageError(
                f"the best student cannot be kept in {file}: {error}; make room and run again"
            ) from error

    def _measurements(self, step: int) -> Iterator[tuple[str, kdtool.Measurement]]:
        folder = self._root / _FOLDER / f"step-{step}"
        shutil.rmtree(folder, ignore_errors=True)  # answers of a process that was killed are of weights that are gone
        folder.mkdir(parents=True)
        run = self._run_in(folder)
        student = run.arm == "student"
        subject = _StudentInMemory(run.arm, "student" if student else "control", None, run.seed, self._student)
        with isolated_rng(run.seed), autocast_to(self._compute, self._student.head.weight.device):
            for name in self._evaluators():
                for measurement in run.component(name, kdtool.Evaluator).kdtool_evaluate(run, (subject,)):
                    yield _qualify(_short(name), measurement.name), measurement

    def _run_in(self, folder: Path) -> kdtool.RunInfo:
        return replace(self._run, folder=folder, stage=_FOLDER, texts=_ForChoosing(self._run))

    def _evaluators(self) -> list[str]:
        """Return the names of the selected evaluators in the run."""
        return [name for name in self._run.implementing("kdtool_evaluate") if _short(name) in self._config.evaluators]


@dataclass(frozen=True)
class _StudentInMemory(kdtool.Subject):
    """The student while it is trained."""

    model: kdtool.LanguageModel | None = field(default=None, repr=False)

    def open_runtime(self) -> kdtool.Runtime | None:
        return None if self.model is None else self.model.open_runtime()


@dataclass(frozen=True)
class _ForChoosing:
    """Texts with `validation` in place of `test`."""

    run: kdtool.RunInfo

    def examples(self, split: kdtool.Split) -> Iterator[kdtool.Example]:
        return self.run.texts.examples("validation" if split == "test" else split)


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy if the file system lacks hard links."""
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _qualify(evaluator: str, measurement: str) -> str:
    return measurement if measurement.startswith(f"{evaluator}.") else f"{evaluator}.{measurement}"


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
        compute: returns `overlaps_of_all` of some rows; the same random numbers are drawn each time.
    """

    def __init__(
        self,
        config: StandardTrainerConfig,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        terms: Sequence[BoundTerm],
        compute: Callable[[list[kdtool.Row]], Tensor],
    ) -> None:
        self._config, self._run, self._phase, self._compute = config, run, phase, compute
        form = next((bound.form for bound in terms if bound.form != "none"), "none")
        self.has_overlap = form in ("dense", "top-k")
        early = phase.steps // _EARLY
        self._step = early if self.has_overlap and early >= _FEWEST_STEPS else 0

    def begin(self, progress: Progress) -> None:
        """Measure the overlap before the first step."""
        if self._step:
            progress.overlap = self._measure()
        elif not self.has_overlap and self._run.rank == 0 and any(term.teachers for term in self._phase.terms):
            self._run.say("overlap: not measured, since no loss receives a teacher's logits or its top-k tokens")

    def judge(self, progress: Progress, step: int) -> None:
        """Report after a step whether the overlap grew, if the verdict is due.

        Raises:
            UsageError: it did not, and `stop_hopeless` is set.
        """
        if step != self._step or not progress.overlap:
            return
        growth = Growth(progress.overlap, self._measure(), step)
        if growth.is_hopeless and self._config.stop_hopeless:
            raise kdtool.UsageError(f"{growth.describe()}. Training stopped, since the trainer has stop_hopeless: true")
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
            figures.append(self._compute(rows))
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
