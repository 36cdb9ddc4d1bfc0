"""Validation: what the recipe's evaluators measure of the student while it learns, and when it no longer gets better.

`TrainingLoop` asks after each step. Evaluators see the student in memory, under the precision in which it trains; what they
take for the test split is the split `validation`, since a student must not be chosen on what it is judged by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kdtool
import torch
from kdtool_transformers import alone
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdtool_trainer_standard import Validation

__all__ = ["Best", "Validator"]

_FOLDER = "validation"


@dataclass(frozen=True)
class Best:
    """The best validation so far: after which step, what was measured, and how many validations were no better since."""

    step: int
    value: float
    since: int = 0


class Validator:
    """Asks the evaluators. On rank 0; `best` is None before the first validation, and where nothing is watched."""

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
        self._folder, self._last = phase.checkpoints / _FOLDER, phase.steps
        self._kept: int | None = None

    def due(self, step: int) -> bool:
        """Say whether the student is measured after this step: every so many, and after the last."""
        return step % self._config.every == 0 or step == self._last

    @property
    def over(self) -> bool:
        """Whether the student has not become better for too long."""
        return self.best is not None and self.best.since >= self._config.patience

    def measure(self, step: int, learnt: Mapping[str, Tensor]) -> dict[str, float]:
        """Return what the evaluators measure now, by EVALUATOR.MEASUREMENT; keep what was `learnt` where it is the best.

        Raises:
            UsageError: what is watched is not measured.
        """
        found = dict(self._measurements(step))
        watched = self._config.watch
        if watched is not None:
            if watched not in found:
                raise kdtool.UsageError(
                    f"validation.watch: {watched} was not measured on the split validation; measured were: "
                    f"{', '.join(found) or 'none'}"
                )
            self._compare(step, found[watched], learnt)
        shown = ", ".join(f"{name} {measurement.value:.4g}" for name, measurement in found.items())
        best = f"; best after step {self.best.step}" if self.best else ""
        self._run.say(f"step {step:,} of {self._last:,}: {shown or 'nothing was measured'}{best}")
        return {name: measurement.value for name, measurement in found.items()}

    def best_weights(self) -> dict[str, Tensor] | None:
        """Return what was learnt when the student was best; None where that is now."""
        if self.best is None or self.best.since == 0:
            return None
        return load_file(self._file(self.best.step))

    def forget(self) -> None:
        """Delete kept weights but the best ones and those of the checkpoint before; called when a checkpoint is whole."""
        kept = {self._kept, self.best.step if self.best else None}
        for file in self._folder.glob("*.safetensors"):
            if file not in {self._file(step) for step in kept if step is not None}:
                file.unlink()
        self._kept = self.best.step if self.best else None

    def _compare(self, step: int, measured: kdtool.Measurement, learnt: Mapping[str, Tensor]) -> None:
        best = self.best
        sign = 1 if measured.higher_is_better else -1
        if best is None or sign * measured.value > sign * best.value:
            beside = self._folder / ".writing"
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in learnt.items()}, beside)
            beside.replace(self._file(step))
            self.best = Best(step, measured.value)
        else:
            self.best = replace(best, since=best.since + 1)

    def _measurements(self, step: int) -> Iterator[tuple[str, kdtool.Measurement]]:
        folder = self._folder / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        run = replace(self._run, folder=folder, stage=_FOLDER, texts=_ForChoosing(self._run.texts))
        role: kdtool.Role = "student" if run.arm == "student" else "control"
        subject = kdtool.LiveSubject(run.arm, role, None, run.seed, self._student)
        with alone(run.seed), self._autocast():
            for name in run.hook.kdtool_evaluate.names():
                short = name.rpartition(".")[2]
                if short in self._config.evaluators:
                    for measurement in run.hook.kdtool_evaluate.of(name)(run, (subject,)):
                        yield _called(short, measurement.name), measurement

    def _autocast(self) -> AbstractContextManager[Any]:
        device = self._student.head.weight.device.type
        return nullcontext() if self._compute == torch.float32 else torch.autocast(device, self._compute)

    def _file(self, step: int) -> Path:
        return self._folder / f"best-{step}.safetensors"


@dataclass(frozen=True)
class _ForChoosing:
    """Texts of which `validation` stands for `test`."""

    texts: kdtool.TextSource

    def examples(self, split: kdtool.Split) -> Iterator[kdtool.Example]:
        return self.texts.examples("validation" if split == "test" else split)


def _called(evaluator: str, measurement: str) -> str:
    return measurement if measurement.startswith(f"{evaluator}.") else f"{evaluator}.{measurement}"
