"""The prospect of an assembly, and what its components answer when they are asked for estimates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.teacher_training import adapting_phases
from kdtool._contract.component import Component
from kdtool._contract.corpus import Packer
from kdtool._contract.estimates import Estimate, PlannedPhase, PlannedSignals, RunForecast
from kdtool._contract.language_model import LanguageModel, ModelFacts
from kdtool._contract.run_info import Hooks, RunInfo
from kdtool._contract.student import Student, Transform
from kdtool._errors import KdtoolError, ServiceError, UsageError
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._run.context import Context
from kdtool._run.stages.terms import teachers_asked, terms_of, want_of

__all__ = ["Asked", "Known", "ask", "describe", "run_forecast_of"]


@dataclass(frozen=True)
class Known:
    """Results that arms, and attempts to make a recipe fit, share, by the settings that they follow from; added to."""

    models: dict[str, Mapping[str, ModelFacts]] = field(default_factory=dict)
    outlines: dict[str, LanguageModel | None] = field(default_factory=dict)
    fine: set[str] = field(default_factory=set)
    """Components that lack nothing on this machine."""


@dataclass(frozen=True)
class Asked:
    """One part with who answered; `runs` is how often it is spent: once, or for each seed of an arm."""

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
    """Return what components are told of the run, and what could not be found out."""
    assembly = context.assembly
    (student,) = assembly.named("student")
    left_out = adapting_phases(context.assembly.recipe)
    unknown = [f"what phase {phase.name!r}, which trains {phase.trains}, takes is in no figure" for phase in left_out]
    phases = [
        _phase_ahead(context, run, models, arm, phase, unknown, known)
        for arm, own in assembly.arms.items()
        for phase in own
    ]
    signals = list(_signals_ahead(context, run, models))
    kinds = {"exporter": "exports", "evaluator": "scores"}
    stages = [
        "students",
        *dict.fromkeys(one.stage for one in signals),
        *dict.fromkeys(phase.stage for phase in phases),
        *(stage for kind, stage in kinds.items() if assembly.named(kind)),
    ]
    teachers = tuple(assembly.named("teacher"))
    return RunForecast(models, student, tuple(stages), tuple(phases), tuple(signals), teachers), unknown


def ask(context: Context, run: RunInfo, ahead: RunForecast, unknown: list[str]) -> list[Asked]:
    """Ask all components: the shared ones once, those of a phase in each phase."""
    assembly = context.assembly
    found = [
        Asked(name, estimate)
        for name in context.hooks.implementing("kdtool_estimate")
        for estimate in _answers(context.hooks, name, run, ahead, unknown)
    ]
    for phase in ahead.phases:
        (spec,) = (own for own in assembly.arms[phase.arm] if own.name == phase.name)
        hooks = assembly.hooks(spec)
        names = {own.path for own in spec.components}
        told = replace(run, hook=hooks, arm=phase.arm, phase=phase.name)
        found += [
            Asked(name, estimate, phase.arm, phase.name, len(assembly.recipe.seeds))
            for name in hooks.implementing("kdtool_estimate")
            if name in names
            for estimate in _answers(hooks, name, told, replace(ahead, phase=phase), unknown)
        ]
    return found


def _answers(hooks: Hooks, name: str, run: RunInfo, ahead: RunForecast, unknown: list[str]) -> Iterable[Estimate]:
    try:
        return list(hooks.component(name, Component).kdtool_estimate(run, ahead) or ())
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    except Exception as error:  # a check that fails for its estimate alone would be no help
        unknown.append(f"{hooks.owner(name)} gives no estimate: {_reason(error)}")
        return ()


def _reason(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if isinstance(error, KdtoolError) else f"{type(error).__name__}: {text}"


def _phase_ahead(
    context: Context,
    run: RunInfo,
    models: Mapping[str, ModelFacts],
    arm: str,
    phase: PhaseSpec,
    unknown: list[str],
    known: Known,
) -> PlannedPhase:
    terms = terms_of(context, phase, models)
    teachers = tuple(teachers_asked(terms))
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
    with assembly.scope(phase) as hooks:
        return _outlined(assembly, hooks, phase, replace(run, hook=hooks), unknown)


def _outlined(
    assembly: Assembly, hooks: Hooks, phase: PhaseSpec, run: RunInfo, unknown: list[str]
) -> LanguageModel | None:
    (student,) = assembly.named("student")
    name = student
    try:
        outline = hooks.component(student, Student).kdtool_outline(run)
        for spec in phase.transforms:
            name = spec.path
            transform = hooks.component(name, Transform)
            if outline is not None and transform.on_meta_device:
                outline = transform.kdtool_transform(outline, run) or outline
    except Exception as error:
        if isinstance(error, KdtoolError) and not isinstance(error, ServiceError):  # its tokenizer may not be here yet
            raise
        unknown.append(f"{hooks.owner(name)} gives no outline: {_reason(error)}")
        return None
    return outline


def _settings(assembly: Assembly, phase: PhaseSpec | None = None) -> str:
    """Return the settings that models follow from: those of student, teachers and the phase's transforms, in order."""
    shared = [built for built in assembly.built.values() if built.spec.kind in ("student", "teacher")]
    own = [assembly.built[spec.key] for spec in phase.transforms] if phase else []
    return repr([(built.spec.use, built.spec.path * (built in shared), built.config) for built in (*shared, *own)])


def _row_length(assembly: Assembly, phase: PhaseSpec) -> int:
    (packer,) = of_kind(phase.sources, "packer")
    component = assembly.shared[packer.path]
    return component.row_length if isinstance(component, Packer) else 0


def _signals_ahead(context: Context, run: RunInfo, models: Mapping[str, ModelFacts]) -> Iterator[PlannedSignals]:
    """Yield what caches will record, once for phases that share it; what they want is joined."""
    found: dict[tuple[str, str], PlannedSignals] = {}
    for phase in context.assembly.arms["student"]:
        for cache in of_kind(phase.sources, "cache"):
            terms = terms_of(context, phase, models)
            for teacher in teachers_asked(terms):
                want = want_of(context, phase, terms, teacher)
                key = (cache.path, teacher)
                if key in found:
                    before = found[key].want
                    layers = tuple(sorted({*before.layers, *want.layers}))
                    want = replace(want, kinds=want.kinds | before.kinds, layers=layers)
                length = _row_length(context.assembly, phase)
                stage = "signals" if cache.path == "signals" else f"signals/{cache.path}"
                found[key] = PlannedSignals(stage, cache.path, teacher, want, length, _tokens(context, run, phase))
    yield from found.values()


def _tokens(context: Context, run: RunInfo, phase: PhaseSpec) -> int:
    """Return how many tokens the phase's packer makes, as far as it says."""
    (packer,) = of_kind(phase.sources, "packer")
    parts = _answers(context.hooks, packer.path, run, RunForecast(), [])
    return sum(part.tokens for part in parts)
