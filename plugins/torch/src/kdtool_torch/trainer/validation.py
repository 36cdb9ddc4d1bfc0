"""Validation during training: the recipe's evaluators, and early stopping.

The loop asks after each step. Evaluators see the student in memory, in the precision in which it trains, and training
stops when it no longer improves. Their split `test` is the split `validation` here, since a student must not be
selected on the text that judges it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import kdtool
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kdtool_torch.device import isolated_rng, max_over_ranks
from kdtool_torch.files import write_safetensors
from kdtool_torch.model import changing
from kdtool_torch.numerics import autocast_to
from kdtool_torch.trainer.progress import Loop
from kdtool_torch.trainer.settings import Validation

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

    def after(self, loop: Loop) -> None:
        """Measure the student on rank 0 if that is due, and end training if it no longer improves."""
        loop.metrics = {} if self.due(loop.step) else None
        if loop.metrics is not None:
            if self._run.rank == 0:
                loop.metrics = self.measure(loop.step, changing(loop.objective.student))
                loop.progress.best = asdict(self.best) if self.best else None
            self._end_if_over(loop)

    def resume(self, loop: Loop, checkpoint: Path) -> None:
        """Continue from a checkpoint: a phase may be stopped while its last validation runs."""
        if loop.progress.best is not None and self._run.rank == 0:
            self.best = Best(**loop.progress.best)
            _link(checkpoint / _BEST, self._root / _BEST)
        self._end_if_over(loop)

    def _end_if_over(self, loop: Loop) -> None:
        """End training on all ranks if rank 0 knows that the student has not improved for long enough."""
        loop.over = any(max_over_ranks([self.over], self._run.world))

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

    def best_weights(self) -> dict[str, Tensor] | None:
        """Return the weights with which the student was best; None if it is best now."""
        if self.best is None or self.best.since == 0:
            return None
        return load_file(self._root / _BEST)

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
