"""Training: the phases of one arm with one seed, each an artefact that a killed process continues in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from kdtool._assembly import Assembly, teacher_of
from kdtool._contract.hooks import Call
from kdtool._contract.kinds import Hooks, Loss
from kdtool._contract.models import LanguageModel, ModelFacts, Subject
from kdtool._contract.signals import Offer, Want
from kdtool._contract.training import Phase, RunInfo, StepReport, Term, Trained
from kdtool._errors import PluginError
from kdtool._recipe.model import PhaseSpec
from kdtool._run.artefacts import Artefact
from kdtool._run.context import Context, Stage, close_components
from kdtool._run.fingerprint import fingerprint
from kdtool._run.results import ArmResult
from kdtool._run.rows import StoredRows
from kdtool._run.signals import from_cache, from_teacher
from kdtool._run.students import MODEL

__all__ = ["Materials", "arm_seconds", "plain_terms", "read_history", "terms_of", "train_arm", "want_of"]

_TRAINED: TypeAdapter[Trained] = TypeAdapter(Trained)
_REPORT: TypeAdapter[StepReport] = TypeAdapter(StepReport)
_CHECKPOINTS = "checkpoints"
_TRAINED_FILE = "trained.json"
_HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True)
class Materials:
    """What all arms train on. `signals` are the recorded signals by teacher; empty when teachers run beside the student."""

    rows: StoredRows
    student: ModelFacts
    teachers: Mapping[str, ModelFacts]
    signals: Mapping[str, Artefact]


def plain_terms(assembly: Assembly, phase: PhaseSpec) -> tuple[Term, ...]:
    """Return the phase's terms, without the layers that losses ask for once the models' shapes are known."""
    terms = []
    for spec in phase.losses:
        loss = assembly.built[spec.key].instance()
        if not isinstance(loss, Loss):
            raise TypeError(f"{spec.path} is no loss")
        teacher = teacher_of(spec, loss, assembly.recipe)
        scale = loss.temperature**2 if loss.softened else 1.0
        asked = teacher.path if teacher else None
        terms.append(
            Term(spec.path, spec.name, spec.weight, loss.temperature, scale, asked, loss.needs, loss.divergence)
        )
    return tuple(terms)


def terms_of(context: Context, phase: PhaseSpec, hooks: Hooks, materials: Materials) -> tuple[Term, ...]:
    """Return the phase's terms, with the layers that losses ask for."""
    terms = []
    for term in plain_terms(context.assembly, phase):
        pairs = None
        if term.teacher is not None and term.name in hooks.kdtool_layers.names():
            pairs = hooks.kdtool_layers.of(term.name)(materials.student, materials.teachers[term.teacher])
        terms.append(replace(term, layers=tuple((int(own), int(other)) for own, other in pairs or ())))
    return tuple(terms)


def want_of(context: Context, terms: tuple[Term, ...], teacher: str) -> Want:
    """Return what the terms want of a teacher: for each loss its first need that the source can meet."""
    caches = context.assembly.named("cache")
    source = next(iter(caches.values()), context.assembly.shared[teacher])
    offers: frozenset[Offer] = getattr(source, "offers", frozenset())
    kinds: set[Offer] = set()
    layers: set[int] = set()
    temperature = 1.0
    for term in terms:
        if term.teacher == teacher:
            kinds |= next(need for need in term.needs if need <= offers)
            layers.update(other for _, other in term.layers)
            temperature = term.temperature if term.scale != 1.0 else temperature
    return Want(frozenset(kinds), tuple(sorted(layers)), temperature)


def train_arm(
    context: Context, stage: Stage, phases: tuple[PhaseSpec, ...], initial: Artefact, materials: Materials
) -> ArmResult:
    """Train the phases of one arm with one seed, each on the model that the one before left."""
    current = initial
    trained: dict[str, Trained] = {}
    for phase in phases:
        hooks = context.assembly.hooks(phase)
        terms = terms_of(context, phase, hooks, materials)
        label = f"{stage.arm}-seed{stage.seed}-{phase.name}"
        phase_stage = replace(stage, kind="phases", label=label, total=phase.steps, unit="steps")
        build = partial(_train_phase, context, phase, terms, materials, current.path / MODEL)
        current = context.make(
            context.own, phase_stage, _phase_print(context, phase, terms, stage, current, materials), build, hooks
        )
        report = _TRAINED.validate_json((current.path / _TRAINED_FILE).read_bytes())
        trained[phase.name] = replace(report, history=current.path / _HISTORY_FILE)
    histories = {name: read_history(report.history) for name, report in trained.items()}
    return ArmResult(stage.arm, stage.seed, current.path / MODEL, trained, histories)


def read_history(path: Path) -> tuple[StepReport, ...]:
    """Read the logged steps of a phase."""
    return tuple(_REPORT.validate_json(line) for line in path.read_text(encoding="utf-8").splitlines())


def arm_seconds(arm: ArmResult) -> float:
    """Return the seconds that an arm spent in training steps."""
    return sum(trained.seconds for trained in arm.phases.values())


def _phase_print(
    context: Context, phase: PhaseSpec, terms: tuple[Term, ...], stage: Stage, before: Artefact, materials: Materials
) -> str:
    return fingerprint(
        "phase",
        steps=phase.steps,
        seed=stage.seed,
        terms=[[term.label, repr(term.weight), term.temperature, term.layers] for term in terms],
        components=[[spec.path, context.part(spec.path, phase)] for spec in phase.components],
        before=before.fingerprint,
        rows=materials.rows.fingerprint,
        signals={term.teacher: _source_print(context, term.teacher, materials) for term in terms if term.teacher},
    )


def _source_print(context: Context, teacher: str, materials: Materials) -> str:
    recorded = materials.signals.get(teacher)
    return recorded.fingerprint if recorded else context.part(teacher)


def _train_phase(
    context: Context,
    phase: PhaseSpec,
    terms: tuple[Term, ...],
    materials: Materials,
    model: Path,
    run: RunInfo,
    folder: Path,
) -> None:
    hooks = run.hook
    signals = {}
    for teacher in sorted({term.teacher for term in terms if term.teacher}):
        want = want_of(context, terms, teacher)
        recorded = materials.signals.get(teacher)
        cache = next(iter(context.assembly.named("cache")), "")
        signals[teacher] = (
            from_cache(hooks, cache, want, recorded.path) if recorded else from_teacher(hooks, teacher, want)
        )
    checkpoints = folder / _CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)
    weightings = tuple(spec.path for spec in phase.weightings)
    plan = Phase(phase.name, phase.steps, terms, materials.rows, signals, checkpoints, weightings)
    if phase.trainer is None:
        raise PluginError(f"phase {phase.name!r} has no trainer")
    opened = hooks.kdtool_open(run, Subject("student", "student", model, run.seed))
    if opened is None or opened.value.model is None:
        raise PluginError(f"no component of the run opens the student in {model}")
    try:
        with opened.value:
            student = _transformed(opened.value.model, hooks.kdtool_transform, run, phase)
            trained = hooks.kdtool_train.of(phase.trainer.path)(run, plan, student)
            _transformed(student, hooks.kdtool_finish, run, phase, backwards=True).save(folder / MODEL)
    finally:
        close_components(hooks, {spec.path for spec in phase.components}, context.say)
    shutil.copyfile(trained.history, folder / "history.copy")
    shutil.rmtree(checkpoints)
    (folder / "history.copy").replace(folder / _HISTORY_FILE)
    (folder / _TRAINED_FILE).write_bytes(_TRAINED.dump_json(replace(trained, history=Path(_HISTORY_FILE)), indent=1))


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
        student = hook.of(name)(student, run) or student
    return student
