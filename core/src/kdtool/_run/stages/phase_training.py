"""Training of one phase, when its node is made: the folder then holds a model, a report and the history of its steps.

`phases` adds the nodes. A killed process leaves the trainer's checkpoints in a node's folder, from which the next resumes.
The phase's transforms change the student at its start and its end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from kdtool._contract.language_model import LanguageModel, Runtime
from kdtool._contract.loss import Weighting
from kdtool._contract.run_info import LossTerm, Owner, RunInfo
from kdtool._contract.sources import SignalSource
from kdtool._contract.training import Phase, StepReport, Student, Trained, Trainer, Transform
from kdtool._errors import PluginError
from kdtool._recipe.model import PhaseSpec
from kdtool._run.context import Context
from kdtool._run.stages.data import Materials, rows_of
from kdtool._run.stages.row_files import Spelled
from kdtool._run.stages.terms import from_cache, from_teacher, request_of, teachers_of_terms, terms_of
from kdtool._store.artefacts import check_file
from kdtool._store.files import commit, json_lines, write_beside
from kdtool._store.shared import MODEL

_TRAINED: TypeAdapter[Trained] = TypeAdapter(Trained)
_REPORT: TypeAdapter[StepReport] = TypeAdapter(StepReport)
_CHECKPOINTS = "checkpoints"
_TRAINED_FILE = "trained.json"
_HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class PhaseTraining:
    """Trains a phase on its materials.

    `open_learner` opens the model to train. `steps` returns the number of steps, given the folder that is filled.
    """

    context: Context
    phase: PhaseSpec
    materials: Materials
    open_learner: Callable[[RunInfo], Runtime]
    steps: Callable[[Path], int]

    def build(self, run: RunInfo, folder: Path) -> None:
        """Train, and fill the folder with model, report and history."""
        plan = self._plan(run, folder)
        plan.checkpoints.mkdir(exist_ok=True)  # tells the other ranks to begin
        if not (folder / _TRAINED_FILE).exists():  # else a killed process had nothing left to train
            trained = self._train(plan, run, folder / MODEL)
            shutil.copyfile(trained.history, folder / _HISTORY_FILE)
            report = replace(trained, history=Path(_HISTORY_FILE))
            write_beside(folder / _TRAINED_FILE, _TRAINED.dump_json(report, indent=1).decode())
            finished = (path for path in folder.iterdir() if path != plan.checkpoints and not path.name.startswith("."))
            commit(folder, *finished)
        commit(folder, gone=[plan.checkpoints])
        shutil.rmtree(plan.checkpoints)

    def join(self, run: RunInfo, folder: Path) -> bool:
        """Train with rank 0, which keeps the result; return False before rank 0 has begun, or if all is trained."""
        if not (folder / _CHECKPOINTS).exists() or (folder / _TRAINED_FILE).exists():
            return False
        self._train(self._plan(run, folder), run, None)
        return True

    def _plan(self, run: RunInfo, folder: Path) -> Phase:
        """Return the trainer's view of the phase."""
        assembly, rows = self.context.assembly, rows_of(self.materials.rows)
        terms = terms_of(self.context, self.phase, self.materials.shapes.of_seed(run.seed))
        teachers = teachers_of_terms(terms)
        teacher_rows = {name: rows_of(node) for name, node in self.materials.teacher_rows.items() if name in teachers}
        (student,) = assembly.of_kind("student")
        weightings = [assembly.built[spec.key].component for spec in self.phase.weightings]
        return Phase(
            name=self.phase.name,
            steps=self.steps(folder),
            terms=terms,
            rows=Spelled(rows, run.component(student, Student).kdtool_tokenizer(run)) if teacher_rows else rows,
            signals={teacher: self._signals(run, terms, teacher) for teacher in teachers},
            checkpoints=folder / _CHECKPOINTS,
            weightings=tuple(spec.path for spec in self.phase.weightings),
            teacher_rows=teacher_rows,
            gradient_norms=any(isinstance(each, Weighting) and each.gradient_norms for each in weightings),
        )

    def _signals(self, run: RunInfo, terms: tuple[LossTerm, ...], teacher: str) -> SignalSource:
        want = request_of(self.context, self.phase, terms, teacher)
        if recording := self.materials.recordings.get(teacher):
            source = from_cache(run.hook, recording.cache, want, recording.node.path)
        else:
            source = from_teacher(run.hook, teacher, want, self.context.vocabularies.get(teacher))
        return replace(source, shared=next(term.shared for term in terms if teacher in term.teachers))

    def _train(self, plan: Phase, run: RunInfo, target: Path | None) -> Trained:
        """Open the model, transform it, train it and save it in `target`; ranks other than 0 pass None."""
        if self.phase.trainer is None:
            raise PluginError(f"phase {plan.name!r} has no trainer")
        with self.open_learner(run) as runtime:
            if runtime.model is None:
                raise PluginError(f"phase {plan.name!r}: the opened student or teacher has no model to train")
            transforming = Transforming(runtime.model)
            for spec in self.phase.transforms:
                transforming.apply(run.component(spec.path, Transform), run)
            trained = run.component(self.phase.trainer.path, Trainer).kdtool_train(run, plan, transforming.student)
            if target is not None:
                _check_history(trained.history, run.hook.owner(self.phase.trainer.path))
            finished = transforming.finish()
            if target is not None:
                finished.save(target)
            return trained


def read_trained(folder: Path) -> Trained:
    """Read the report of a phase that is trained."""
    report = _TRAINED.validate_json(check_file(folder, _TRAINED_FILE).read_bytes())
    return replace(report, history=check_file(folder, _HISTORY_FILE))


def read_history(path: Path) -> tuple[StepReport, ...]:
    """Read the logged steps of a phase."""
    return tuple(_REPORT.validate_json(line) for line in json_lines(path))


def _check_history(path: Path, owner: Owner | None) -> None:
    try:
        read_history(path)
    except (OSError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise PluginError(f"{owner} left no readable history of its steps in {path}: {cause}") from error


@dataclass
class Transforming:
    """A student and the transforms that have not finished with it."""

    student: LanguageModel
    _unfinished: list[tuple[LanguageModel | None, Iterator[object]]] = field(default_factory=list)

    def apply(self, transform: Transform, run: RunInfo) -> None:
        """Change the student by a transform, up to its `yield` if it has one."""
        answer = transform.kdtool_transform(self.student, run)
        if isinstance(answer, Iterator):
            changed = next(answer, None)
            replaced = None if changed is None or changed is self.student else self.student
            self._unfinished.append((replaced, answer))
            self.student = changed or self.student
        else:
            self.student = answer or self.student

    def finish(self) -> LanguageModel:
        """Run what follows the `yield` of each transform, in reverse order, and return the student.

        Raises:
            PluginError: a transform yields more than once.
        """
        while self._unfinished:
            replaced, rest = self._unfinished.pop()
            for _ in rest:
                raise PluginError(
                    "kdtool_transform yields more than once; it must yield the student once, or return it"
                )
            self.student = replaced or self.student
        return self.student
