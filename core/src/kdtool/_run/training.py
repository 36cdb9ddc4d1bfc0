"""Training: the phases of one arm with one seed, each an artefact that a killed process continues in.

`add_arm` adds those that train a student; `adapting` adds those that train a teacher, by the same `phase_node`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdtool._contract.hooks import Call
from kdtool._contract.kinds import Hooks
from kdtool._contract.models import LanguageModel, Runtime, Subject
from kdtool._contract.text import RowSource
from kdtool._contract.training import Phase, RunInfo, SignalSource, StepReport, Term, Trained
from kdtool._errors import PluginError
from kdtool._owner import Owner
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._run.artefacts import Artefacts, sync_files
from kdtool._run.context import Context, close_components
from kdtool._run.data import Materials, rows_of
from kdtool._run.graph import MODEL, Graph, Node, Stage
from kdtool._run.results import ArmResult
from kdtool._run.sealed import read_sealed, write_beside, write_sealed
from kdtool._run.signals import from_cache, from_teacher
from kdtool._run.teacher_rows import Spelled
from kdtool._run.terms import teachers_asked, terms_of, want_of
from kdtool._validating import validators_of

__all__ = ["Arm", "Learner", "MatchedTime", "add_arm", "phase_node", "read_history"]

_TRAINED: TypeAdapter[Trained] = TypeAdapter(Trained)
_REPORT: TypeAdapter[StepReport] = TypeAdapter(StepReport)
_CHECKPOINTS = "checkpoints"
_TRAINED_FILE = "trained.json"
_HISTORY_FILE = "history.jsonl"
_STEPS_FILE = "steps.json"


@dataclass(frozen=True)
class Arm:
    """One arm with one seed: its phases in order, with their nodes. `nodes[-1]` holds the trained model."""

    arm: str
    seed: int
    phases: tuple[PhaseSpec, ...]
    nodes: tuple[Node, ...]

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.nodes[-1].path / MODEL

    @property
    def tokens(self) -> int:
        """The tokens that the arm trained on; its nodes are made."""
        return sum(_trained(node).tokens for node in self.nodes)

    @property
    def seconds(self) -> float:
        """The seconds that the arm spent in training steps; its nodes are made."""
        return sum(_trained(node).seconds for node in self.nodes)

    @property
    def share_of_steps(self) -> float:
        """What share of its phases' steps it took: less than 1 where a trainer ended early; its nodes are made."""
        return sum(_trained(node).steps for node in self.nodes) / sum(phase.steps for phase in self.phases)

    def result(self) -> ArmResult:
        """Read what the arm's phases left; its nodes are made."""
        trained = {phase.name: _trained(node) for phase, node in zip(self.phases, self.nodes, strict=True)}
        histories = {name: read_history(report.history) for name, report in trained.items()}
        return ArmResult(self.arm, self.seed, self.model, trained, histories)


@dataclass(frozen=True)
class MatchedTime:
    """Steps of a control that may train for as long as the student did, what the teacher cost (`charged`) in full."""

    student: Arm
    control: Arm
    charged: tuple[Node, ...]

    def steps(self, context: Context, phase: PhaseSpec, folder: Path) -> int:
        """Return the steps of a phase, its inputs being made; kept in its folder so that a resumed phase has the same."""
        kept = folder / _STEPS_FILE
        if kept.exists():
            return int(json.loads(read_sealed(kept, f"Delete {folder} and run again"))["steps"])
        seconds = self.student.seconds + sum(context.seconds(node) for node in self.charged)
        whole = self.control.seconds / self.control.share_of_steps
        steps = max(1, round(phase.steps * seconds / max(whole, 1e-9)))
        write_sealed(kept, {"steps": steps})
        return steps


@dataclass(frozen=True)
class Learner:
    """Whom a phase trains, and where the result is kept.

    Attributes:
        open: opens its model as it is before the phase.
        where: the run's own folder, or the store that runs share.
        shared: whether runs share it.
        inputs: the nodes that it is made from.
        parts: what else its model depends on.
        teachers: as in `Node`: for a teacher, whose model it begins with.
    """

    open: Callable[[RunInfo], Runtime]
    where: Artefacts
    shared: bool = False
    inputs: Mapping[str, Node] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    teachers: Mapping[str, Node | None] = field(default_factory=dict)


def add_arm(
    context: Context,
    graph: Graph,
    stage: Stage,
    initial: Node,
    materials: Mapping[str, Materials],
    matched: MatchedTime | None = None,
) -> Arm:
    """Add the phases of one arm with one seed, each on the model that the one before left.

    Args:
        context: the run.
        graph: gets the nodes.
        stage: arm and seed.
        initial: the untrained student.
        materials: what each phase trains on, by its name.
        matched: gives the steps where time is to be equal; None where the recipe's count.
    """
    phases = context.assembly.arms[stage.arm]
    nodes = [initial]
    for phase in phases:
        named = replace(
            stage, kind="phases", label=f"{stage.arm}-seed{stage.seed}-{phase.name}", unit="steps", phase=phase.name
        )
        student = Learner(
            partial(_open_student, context, nodes[-1].path / MODEL), context.own, inputs={"model": nodes[-1]}
        )
        nodes.append(graph.add(phase_node(context, named, phase, student, materials[phase.name], matched)))
    return Arm(stage.arm, stage.seed, phases, tuple(nodes[1:]))


def read_history(path: Path) -> tuple[StepReport, ...]:
    """Read the logged steps of a phase."""
    return tuple(_REPORT.validate_json(line) for line in path.read_text(encoding="utf-8").splitlines())


def phase_node(
    context: Context,
    stage: Stage,
    phase: PhaseSpec,
    learner: Learner,
    materials: Materials,
    matched: MatchedTime | None = None,
) -> Node:
    """Return the node in which a phase trains the learner on the materials."""
    terms = terms_of(context, phase, materials.facts)
    validators = validators_of(context.assembly.recipe, phase, context.assembly.built)
    steps = partial(matched.steps, context, phase) if matched else lambda _: phase.steps
    teachers = teachers_asked(terms)
    beside = [name for name in teachers if name not in materials.signals]
    inputs = {**learner.inputs, "rows": materials.rows}
    inputs |= {f"signals of {name}": materials.signals[name] for name in teachers if name not in beside}
    inputs |= {f"rows of {name}": materials.teacher_rows[name] for name in teachers if name in materials.teacher_rows}
    if matched:
        inputs |= {"the student's time": matched.student.nodes[-1], "the control's time": matched.control.nodes[-1]}
        inputs |= {f"the time of {node.name}": node for node in matched.charged}
    return Node(
        stage=stage,
        where=learner.where,
        shared=learner.shared,
        parts={
            **learner.parts,
            "steps": phase.steps,
            "seed": stage.seed,
            "terms": {term.label: _plain(term, several=len(teachers) > 1) for term in terms},
            "components": {spec.path: context.part(spec.path, phase) for spec in phase.components},
            "teachers": {name: context.part(name) for name in beside},
            **({"validators": {spec.path: context.part(spec.path) for spec in validators}} if validators else {}),
            **(
                {"processes": context.world} if context.world > 1 else {}
            ),  # a step is as many rows as they show together
        },
        inputs=inputs,
        build=partial(_train_phase, context, phase, terms, materials, learner.open, steps),
        join=partial(_join_phase, context, phase, terms, materials, learner.open, steps),
        texts=materials.texts,
        total=steps,
        hooks=partial(context.assembly.hooks, phase),
        teachers={**learner.teachers, **context.speaking(beside)},
    )


def _plain(term: Term, *, several: bool) -> list[Any]:
    """Return what a term's result depends on, besides its loss and the phase's teacher; of `several`, which ones."""
    shared = [] if term.shared is None else [term.shared]
    asked = [dict(term.teachers)] if several and term.teachers else []
    return [repr(term.weight), term.temperature, list(term.layers), *shared, *asked]


def _trained(node: Node) -> Trained:
    report = _TRAINED.validate_json((node.path / _TRAINED_FILE).read_bytes())
    return replace(report, history=node.path / _HISTORY_FILE)


def _train_phase(
    context: Context,
    phase: PhaseSpec,
    terms: tuple[Term, ...],
    materials: Materials,
    open_learner: Callable[[RunInfo], Runtime],
    steps: Callable[[Path], int],
    run: RunInfo,
    folder: Path,
) -> None:
    plan = _planned(context, phase, terms, materials, steps(folder), run, folder)
    plan.checkpoints.mkdir(exist_ok=True)  # tells the other ranks to begin
    if not (folder / _TRAINED_FILE).exists():  # else a killed process had nothing left to train
        trained = _train(context, phase, plan, open_learner, run, folder / MODEL)
        shutil.copyfile(trained.history, folder / _HISTORY_FILE)
        sync_files(folder)
        report = replace(trained, history=Path(_HISTORY_FILE))
        write_beside(folder / _TRAINED_FILE, _TRAINED.dump_json(report, indent=1).decode())
    shutil.rmtree(plan.checkpoints)


def _join_phase(
    context: Context,
    phase: PhaseSpec,
    terms: tuple[Term, ...],
    materials: Materials,
    open_learner: Callable[[RunInfo], Runtime],
    steps: Callable[[Path], int],
    run: RunInfo,
    folder: Path,
) -> bool:
    """Train with rank 0, which keeps what comes of it; say whether it has begun and there is anything left to train."""
    if not (folder / _CHECKPOINTS).exists() or (folder / _TRAINED_FILE).exists():
        return False
    plan = _planned(context, phase, terms, materials, steps(folder), run, folder)
    _train(context, phase, plan, open_learner, run, None)
    return True


def _planned(
    context: Context,
    phase: PhaseSpec,
    terms: tuple[Term, ...],
    materials: Materials,
    steps: int,
    run: RunInfo,
    folder: Path,
) -> Phase:
    """Return what the trainer is told of a phase."""
    translated = {name: node for name, node in materials.teacher_rows.items() if name in teachers_asked(terms)}
    return Phase(
        name=phase.name,
        steps=steps,
        terms=terms,
        rows=_spelled(context, run, rows_of(materials.rows)) if translated else rows_of(materials.rows),
        signals=_signals(context, phase, terms, materials, run.hook),
        checkpoints=folder / _CHECKPOINTS,
        weightings=tuple(spec.path for spec in phase.weightings),
        teacher_rows={name: rows_of(node) for name, node in translated.items()},
    )


def _spelled(context: Context, run: RunInfo, rows: RowSource) -> RowSource:
    (student,) = context.assembly.named("student")
    return Spelled(rows, run.hook.kdtool_tokenizer.of(student)(run))


def _signals(
    context: Context, phase: PhaseSpec, terms: tuple[Term, ...], materials: Materials, hooks: Hooks
) -> dict[str, SignalSource]:
    found: dict[str, SignalSource] = {}
    for teacher in teachers_asked(terms):
        want = want_of(context, phase, terms, teacher)
        recorded = materials.signals.get(teacher)
        if recorded:
            (cache,) = of_kind(phase.sources, "cache")
            source = from_cache(hooks, cache.path, want, recorded.path)
        else:
            source = from_teacher(hooks, teacher, want, context.vocabularies.get(teacher))
        found[teacher] = replace(source, shared=next(term.shared for term in terms if teacher in term.teachers))
    return found


def _open_student(context: Context, model: Path, run: RunInfo) -> Runtime:
    opened = run.hook.kdtool_open(run, Subject("student", "student", model, run.seed))
    if opened is None or opened.value.model is None:
        (built,) = context.assembly.named("student")
        raise PluginError(f"neither {run.hook.owner(built)} nor another component opens the student in {model}")
    return opened.value


def _train(
    context: Context,
    phase: PhaseSpec,
    plan: Phase,
    open_learner: Callable[[RunInfo], Runtime],
    run: RunInfo,
    target: Path | None,
) -> Trained:
    """Open who learns, transform it, train it and save it in `target`; ranks other than 0 have none."""
    hooks = run.hook
    if phase.trainer is None:
        raise PluginError(f"phase {phase.name!r} has no trainer")
    try:
        with open_learner(run) as runtime:
            if runtime.model is None:
                raise PluginError(f"phase {phase.name!r}: what was opened to be trained gives no model")
            student = _transformed(runtime.model, hooks.kdtool_transform, run, phase)
            trained = hooks.kdtool_train.of(phase.trainer.path)(run, plan, student)
            if target is not None:
                _check_history(trained.history, hooks.owner(phase.trainer.path))
            finished = _transformed(student, hooks.kdtool_finish, run, phase, backwards=True)
            if target is not None:
                shutil.rmtree(target, ignore_errors=True)  # what a process killed while saving left
                finished.save(target)
            return trained
    finally:
        close_components(hooks, {spec.path for spec in phase.components}, context.say)


def _check_history(path: Path, owner: Owner | None) -> None:
    try:
        read_history(path)
    except (OSError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise PluginError(f"{owner} left no history of its steps that can be read in {path}: {cause}") from error


def _transformed(
    student: LanguageModel,
    hook: Call[[LanguageModel, RunInfo], LanguageModel, dict[str, LanguageModel]],
    run: RunInfo,
    phase: PhaseSpec,
    *,
    backwards: bool = False,
) -> LanguageModel:
    """Pass the student through the phase's transforms, each getting the result of the one before."""
    names = [spec.path for spec in phase.transforms if spec.path in hook.names()]
    for name in reversed(names) if backwards else names:
        student = hook.maybe(name)(student, run) or student
    return student
