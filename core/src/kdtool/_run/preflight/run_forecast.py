"""The forecast of a run for an assembly, and the estimates of its components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.teacher_training import adapting_phases
from kdtool._contract.component import Component
from kdtool._contract.corpus import Packer
from kdtool._contract.estimates import Estimate, PlannedPhase, PlannedSignals, RunForecast
from kdtool._contract.language_model import LanguageModel, ModelFacts
from kdtool._contract.run_info import Hooks, RunInfo
from kdtool._contract.signals import SignalRequest
from kdtool._contract.student import Student, Transform
from kdtool._errors import KdtoolError, ServiceError, UsageError
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._recipe.yaml import KeyPath
from kdtool._run.context import Context
from kdtool._run.preflight.default_estimates import estimate_process, estimate_without_hook
from kdtool._run.stages.terms import join_requests, request_of, teachers_of_terms, terms_of


@dataclass(frozen=True)
class Known:
    """Results by the settings that they depend on, shared by arms and by attempts to make a recipe fit; added to.

    `complete` holds components that lack nothing on this machine.
    """

    models: dict[str, Mapping[str, ModelFacts]] = field(default_factory=dict)
    outlines: dict[str, LanguageModel | None] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Asked:
    """One estimate and its component; `runs` is how often it is spent: once, or for each seed of an arm."""

    component: str
    estimate: Estimate
    arm: str = ""
    phase: str = ""
    runs: int = 1


def describe(context: Context, run: RunInfo, known: Known) -> Mapping[str, ModelFacts]:
    """Return the shapes of student and teachers."""
    key = _settings(context.assembly)
    if key not in known.models:
        known.models[key] = context.hooks.kdtool_describe(run)
    return known.models[key]


def run_forecast_of(
    context: Context, run: RunInfo, models: Mapping[str, ModelFacts], known: Known
) -> tuple[RunForecast, list[str]]:
    """Return the forecast that components get, and lines about everything that is unknown."""
    assembly = context.assembly
    (student,) = assembly.of_kind("student")
    left_out = adapting_phases(assembly.recipe)
    unknown = [f"memory and time of phase {phase.name!r}, which trains {phase.trains}" for phase in left_out]
    phases = [
        _plan_phase(context, run, models, arm, phase, unknown, known)
        for arm, own in assembly.arms.items()
        for phase in own
    ]
    signals = _plan_signals(context, run, models)
    kinds = {"exporter": "exports", "evaluator": "scores"}
    stages = dict.fromkeys(["students", *(one.stage for one in signals), *(phase.stage for phase in phases)])
    stages |= dict.fromkeys(stage for kind, stage in kinds.items() if assembly.of_kind(kind))
    teachers = tuple(assembly.of_kind("teacher"))
    return RunForecast(models, student, tuple(stages), tuple(phases), tuple(signals), teachers), unknown


def ask(context: Context, run: RunInfo, ahead: RunForecast, unknown: list[str]) -> list[Asked]:
    """Ask all components, the shared ones once, those of a phase in each phase; the process comes first."""
    assembly = context.assembly
    found = [Asked("process", estimate_process(ahead))]
    found += [
        Asked(name, estimate)
        for name in assembly.shared
        for estimate in _answers(context.hooks, name, run, ahead, unknown)
    ]
    for phase in ahead.phases:
        (spec,) = (own for own in assembly.arms[phase.arm] if own.name == phase.name)
        hooks, names = assembly.hooks(spec), [own.path for own in spec.components]
        info = replace(run, hook=hooks, arm=phase.arm, phase=phase.name)
        found += [
            Asked(name, estimate, phase.arm, phase.name, len(assembly.recipe.seeds))
            for name in names
            for estimate in _answers(hooks, name, info, replace(ahead, phase=phase), unknown)
        ]
    return found


def _answers(hooks: Hooks, name: str, run: RunInfo, ahead: RunForecast, unknown: list[str]) -> Iterable[Estimate]:
    component, owner = hooks.component(name, Component), hooks.owner(name)
    try:
        if owner is not None and name not in hooks.implementing("kdtool_estimate"):
            return list(estimate_without_hook(owner, component, ahead))
        return list(component.kdtool_estimate(run, ahead) or ())
    except UsageError:
        raise
    except Exception as error:  # a check that fails for its estimate alone would be no help
        unknown.append(f"{owner} could not be estimated: {_reason(error)}")
        return ()


def _reason(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if isinstance(error, KdtoolError) else f"{type(error).__name__}: {text}"


def _plan_phase(
    context: Context,
    run: RunInfo,
    models: Mapping[str, ModelFacts],
    arm: str,
    phase: PhaseSpec,
    unknown: list[str],
    known: Known,
) -> PlannedPhase:
    terms = terms_of(context, phase, models)
    teachers = tuple(teachers_of_terms(terms))
    cached = bool(of_kind(phase.sources, "cache"))
    key = _settings(context.assembly, phase)
    if key not in known.outlines:
        known.outlines[key] = _outline(context.assembly, phase, replace(run, arm=arm, phase=phase.name), unknown)
    outline = known.outlines[key]
    return PlannedPhase(
        name=phase.name,
        stage=f"phases/{phase.name}" if arm == "student" else f"phases/{arm}/{phase.name}",
        arm=arm,
        steps=phase.steps,
        terms=terms,
        row_length=_row_length(context.assembly, phase),
        outline=outline,
        facts=None if outline is None else outline.facts,
        beside=() if cached else teachers,
        cached=teachers if cached else (),
    )


def _outline(assembly: Assembly, phase: PhaseSpec, run: RunInfo, unknown: list[str]) -> LanguageModel | None:
    """Return the student's outline after the phase's transforms."""
    (student,) = assembly.of_kind("student")
    with assembly.scope(phase) as hooks:
        name, run = student, replace(run, hook=hooks)
        try:
            outline = hooks.component(student, Student).kdtool_outline(run)
            for spec in phase.transforms:
                name = spec.path
                transform = hooks.component(name, Transform)
                if outline is not None and transform.on_meta_device:
                    outline = transform.kdtool_transform(outline, run) or outline
        except Exception as error:
            if isinstance(error, KdtoolError) and not isinstance(
                error, ServiceError
            ):  # which a missing tokenizer raises
                raise
            unknown.append(f"the student's memory in training, since {hooks.owner(name)} failed: {_reason(error)}")
            return None
    return outline


def _settings(assembly: Assembly, phase: PhaseSpec | None = None) -> str:
    """Return the settings that models depend on: those of student, teachers and the phase's transforms, in order."""
    shared = [built for built in assembly.built.values() if built.spec.kind in ("student", "teacher")]
    own = [assembly.built[spec.key] for spec in phase.transforms] if phase else []
    return repr([(built.spec.use, built.spec.path * (built in shared), built.config) for built in (*shared, *own)])


def _row_length(assembly: Assembly, phase: PhaseSpec) -> int:
    (packer,) = of_kind(phase.sources, "packer")
    component = assembly.shared[packer.path]
    return component.row_length if isinstance(component, Packer) else 0


def _plan_signals(context: Context, run: RunInfo, models: Mapping[str, ModelFacts]) -> list[PlannedSignals]:
    """Return the signals that caches will record; phases with the same text, packer, cache and teacher share a recording."""
    requests: dict[tuple[tuple[KeyPath, ...], str, str], list[SignalRequest]] = {}
    last: dict[tuple[tuple[KeyPath, ...], str, str], PhaseSpec] = {}
    for phase in context.assembly.arms["student"]:
        rows = tuple(spec.key for spec in phase.sources if spec.kind != "cache")
        for cache in of_kind(phase.sources, "cache"):
            terms = terms_of(context, phase, models)
            for teacher in teachers_of_terms(terms):
                key = (rows, cache.path, teacher)
                requests.setdefault(key, []).append(request_of(context, phase, terms, teacher))
                last[key] = phase
    found = []
    for (rows, cache_name, teacher), wanted in requests.items():
        phase = last[rows, cache_name, teacher]
        (packer,) = of_kind(phase.sources, "packer")
        tokens = sum(part.tokens for part in _answers(context.hooks, packer.path, run, RunForecast(), []))
        stage = "signals" if cache_name == "signals" else f"signals/{cache_name}"
        length = _row_length(context.assembly, phase)
        found.append(PlannedSignals(stage, cache_name, teacher, join_requests(wanted), length, tokens))
    return found
