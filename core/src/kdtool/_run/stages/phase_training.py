"""How one phase is trained when its node is made, and what it leaves: a model, a report and the history of its steps.

`phases` adds the nodes. A killed process leaves the trainer's checkpoints in a node's folder, in which the next continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from kdtool._contract.data import RowSource
from kdtool._contract.language_model import LanguageModel, Runtime
from kdtool._contract.loss import Weighting
from kdtool._contract.loss_terms import LossTerm
from kdtool._contract.run_info import Hooks, Owner, RunInfo
from kdtool._contract.student import Student, Transform
from kdtool._contract.teacher import SignalSource
from kdtool._contract.trainer import Phase, StepReport, Trained, Trainer
from kdtool._errors import PluginError
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._run.context import Context
from kdtool._run.stages.rows import Materials, rows_of
from kdtool._run.stages.signals import from_cache, from_teacher
from kdtool._run.stages.teacher_rows import Spelled
from kdtool._run.stages.terms import teachers_asked, want_of
from kdtool._store.artefacts import checked
from kdtool._store.atomic_files import json_lines, write_beside
from kdtool._store.committed import commit, uncommit
from kdtool._store.layout import MODEL

__all__ = ["PhaseTraining", "read_history", "read_trained"]

_TRAINED: TypeAdapter[Trained] = TypeAdapter(Trained)
_REPORT: TypeAdapter[StepReport] = TypeAdapter(StepReport)
_CHECKPOINTS = "checkpoints"
_TRAINED_FILE = "trained.json"
_HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class PhaseTraining:
    """Trains a phase.

    Attributes:
        context: the run.
        phase: the phase, as the recipe has it.
        terms: its losses.
        materials: what it trains on.
        open_learner: opens the model that it trains, as it is before.
        steps: gives its number of steps; it is given the folder that is filled.
    """

    context: Context
    phase: PhaseSpec
    terms: tuple[LossTerm, ...]
    materials: Materials
    open_learner: Callable[[RunInfo], Runtime]
    steps: Callable[[Path], int]

    def build(self, run: RunInfo, folder: Path) -> None:
        """Train, and fill the folder with what comes of it."""
        plan = self._planned(run, folder)
        plan.checkpoints.mkdir(exist_ok=True)  # tells the other ranks to begin
        if not (folder / _TRAINED_FILE).exists():  # else a killed process had nothing left to train
            trained = self._train(plan, run, folder / MODEL)
            shutil.copyfile(trained.history, folder / _HISTORY_FILE)
            report = replace(trained, history=Path(_HISTORY_FILE))
            write_beside(folder / _TRAINED_FILE, _TRAINED.dump_json(report, indent=1).decode())
            own = (path for path in folder.iterdir() if path != plan.checkpoints and not path.name.startswith("."))
            commit(folder, *own)
        uncommit(folder, plan.checkpoints)
        shutil.rmtree(plan.checkpoints)

    def join(self, run: RunInfo, folder: Path) -> bool:
        """Train with rank 0, which keeps what comes of it; say whether it has begun and there is anything left to train."""
        if not (folder / _CHECKPOINTS).exists() or (folder / _TRAINED_FILE).exists():
            return False
        self._train(self._planned(run, folder), run, None)
        return True

    def _planned(self, run: RunInfo, folder: Path) -> Phase:
        """Return what the trainer is told of the phase."""
        asked = teachers_asked(self.terms)
        translated = {name: node for name, node in self.materials.teacher_rows.items() if name in asked}
        return Phase(
            name=self.phase.name,
            steps=self.steps(folder),
            terms=self.terms,
            rows=self._spelled(run, rows_of(self.materials.rows)) if translated else rows_of(self.materials.rows),
            signals=self._signals(run.hook),
            checkpoints=folder / _CHECKPOINTS,
            weightings=tuple(spec.path for spec in self.phase.weightings),
            teacher_rows={name: rows_of(node) for name, node in translated.items()},
            gradient_norms=self._uses_gradient_norms(),
        )

    def _uses_gradient_norms(self) -> bool:
        built = (self.context.assembly.built[spec.key].component for spec in self.phase.weightings)
        return any(isinstance(weighting, Weighting) and weighting.gradient_norms for weighting in built)

    def _spelled(self, run: RunInfo, rows: RowSource) -> RowSource:
        (student,) = self.context.assembly.of_kind("student")
        return Spelled(rows, run.component(student, Student).kdtool_tokenizer(run))

    def _signals(self, hooks: Hooks) -> dict[str, SignalSource]:
        found: dict[str, SignalSource] = {}
        for teacher in teachers_asked(self.terms):
            want = want_of(self.context, self.phase, self.terms, teacher)
            recorded = self.materials.signals.get(teacher)
            if recorded:
                (cache,) = of_kind(self.phase.sources, "cache")
                source = from_cache(hooks, cache.path, want, recorded.path)
            else:
                source = from_teacher(hooks, teacher, want, self.context.vocabularies.get(teacher))
            shared = next(term.shared for term in self.terms if teacher in term.teachers)
            found[teacher] = replace(source, shared=shared)
        return found

    def _train(self, plan: Phase, run: RunInfo, target: Path | None) -> Trained:
        """Open who learns, transform it, train it and save it in `target`; ranks other than 0 have none."""
        hooks, phase = run.hook, self.phase
        if phase.trainer is None:
            raise PluginError(f"phase {phase.name!r} has no trainer")
        with self.open_learner(run) as runtime:
            if runtime.model is None:
                raise PluginError(f"phase {phase.name!r}: what was opened to be trained gives no model")
            student = self._transformed(runtime.model, "kdtool_transform", run)
            trained = hooks.component(phase.trainer.path, Trainer).kdtool_train(run, plan, student)
            if target is not None:
                _check_history(trained.history, hooks.owner(phase.trainer.path))
            finished = self._transformed(student, "kdtool_finish", run, backwards=True)
            if target is not None:
                finished.save(target)
            return trained

    def _transformed(
        self,
        student: LanguageModel,
        hook: Literal["kdtool_transform", "kdtool_finish"],
        run: RunInfo,
        *,
        backwards: bool = False,
    ) -> LanguageModel:
        """Pass the student through the phase's transforms, each getting the result of the one before."""
        names = [spec.path for spec in self.phase.transforms]
        for name in reversed(names) if backwards else names:
            student = getattr(run.component(name, Transform), hook)(student, run) or student
        return student


def read_trained(folder: Path) -> Trained:
    """Read the report of a phase that is trained."""
    report = _TRAINED.validate_json(checked(folder, _TRAINED_FILE).read_bytes())
    return replace(report, history=checked(folder, _HISTORY_FILE))


def read_history(path: Path) -> tuple[StepReport, ...]:
    """Read the logged steps of a phase."""
    return tuple(_REPORT.validate_json(line) for line in json_lines(path))


def _check_history(path: Path, owner: Owner | None) -> None:
    try:
        read_history(path)
    except (OSError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise PluginError(f"{owner} left no history of its steps that can be read in {path}: {cause}") from error
