"""The forecast of a run, read off its graph, and the estimates that components give for it.

Estimates that need no plugin are here: of the process, and of components without `kdtool_estimate`, from the shapes of
models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks import taken_by
from kdtool._contract.component import Component
from kdtool._contract.language_model import LanguageModel, ModelFacts
from kdtool._contract.run_info import (
    Estimate,
    Hooks,
    Owner,
    PlannedPhase,
    PlannedSignals,
    RunForecast,
    RunInfo,
    bytes_of_weights,
)
from kdtool._contract.training import Student, Transform
from kdtool._errors import KdtoolError, ServiceError, UsageError
from kdtool._recipe.model import PhaseSpec, of_kind
from kdtool._run.comparability import row_length
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._run.plan import RunGraph, described_models
from kdtool._run.stages.data import Materials, Recording
from kdtool._run.stages.phase_training import Transforming
from kdtool._run.stages.terms import teachers_of_terms, terms_of


@dataclass(frozen=True)
class ForecastCache:
    """Results by the settings that they depend on, shared by arms and by attempts to make a recipe fit; added to.

    `complete` holds components that lack nothing on this machine.
    """

    models: dict[str, Mapping[str, ModelFacts]] = field(default_factory=dict)
    outlines: dict[str, LanguageModel | None] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class AttributedEstimate:
    """One estimate and its component; `runs` is how often it is spent: once, or for each seed of an arm."""

    component: str
    estimate: Estimate
    arm: str = ""
    phase: str = ""
    runs: int = 1


def describe(context: Context, run: RunInfo, cache: ForecastCache) -> Mapping[str, ModelFacts]:
    """Return the shapes of student and teachers."""
    key = _settings(context.assembly)
    if key not in cache.models:
        cache.models[key] = described_models(context, run)
    return cache.models[key]


def forecast_of(
    context: Context, run: RunInfo, models: Mapping[str, ModelFacts], run_graph: RunGraph, cache: ForecastCache
) -> tuple[RunForecast, list[str]]:
    """Return the forecast of a graph that components get, and lines about everything that is unknown."""
    (student,) = context.assembly.of_kind("student")
    unknown = [
        f"memory and time of phase {phase.name!r}, which trains {trained.arm}"
        for trained in run_graph.teachers
        for phase in trained.phases
    ]
    first, *_ = context.assembly.recipe.seeds
    phases = tuple(
        _plan_phase(
            context, replace(run, arm=node.arm, phase=phase.name), node, phase, run_graph.materials, unknown, cache
        )
        for trained in run_graph.arms
        if trained.seed == first
        for phase, node in zip(trained.phases, trained.nodes, strict=True)
    )
    signals = tuple(_plan_signals(context, run, run_graph.recordings))
    teachers = tuple(context.assembly.of_kind("teacher"))
    return RunForecast(models, student, tuple(run_graph.graph.nodes), phases, signals, teachers), unknown


def ask(
    context: Context, run: RunInfo, ahead: RunForecast, run_graph: RunGraph, unknown: list[str]
) -> list[AttributedEstimate]:
    """Ask all components, the shared ones once, those of a phase in each phase; the process comes first."""
    assembly = context.assembly
    answers = [AttributedEstimate("process", estimate_process(ahead))]
    answers += [
        AttributedEstimate(name, estimate)
        for name in assembly.shared
        for estimate in _answers(context.hooks, name, run, ahead, unknown)
    ]
    for phase in ahead.phases:
        (spec,) = (spec for spec in assembly.arms[phase.arm] if spec.name == phase.name)
        hooks = assembly.hooks(spec)
        info = replace(run, hook=hooks, arm=phase.arm, phase=phase.name)
        answers += [
            AttributedEstimate(component.path, estimate, phase.arm, phase.name, len(assembly.recipe.seeds))
            for component in spec.components
            for estimate in _answers(hooks, component.path, info, replace(ahead, phase=phase), unknown)
        ]
    return [replace(answer, estimate=_name_stages(run_graph, answer.component, answer.estimate)) for answer in answers]


def _name_stages(run_graph: RunGraph, component: str, estimate: Estimate) -> Estimate:
    """Return the estimate with the names of its stages instead of kinds, and a phase's stages of all seeds."""
    nodes, names = run_graph.graph.nodes, list[str]()
    for stage, colon, moment in (given.partition(": ") for given in estimate.stages):
        if node := nodes.get(stage):
            expanded = [other.name for other in nodes.values() if _same_but_seed(node, other)]
        else:
            expanded = [node.name for node in _nodes_of(run_graph, component) if node.kind == stage]
        names += [f"{name}{colon}{moment}" for name in expanded or [stage]]
    return replace(estimate, stages=tuple(names))


def _nodes_of(run_graph: RunGraph, component: str) -> Iterable[Node]:
    """Return the nodes that an exporter or an evaluator makes; all nodes for other components."""
    if component in run_graph.exports:
        return [run_graph.exports[component]]
    if component in run_graph.scores:  # its estimate is that for a student, not that for a teacher
        return [node for node in run_graph.scores[component] if {*node.inputs} - {"texts"}]
    return run_graph.graph.nodes.values()


def _same_but_seed(node: Node, other: Node) -> bool:
    if node.kind != "phases":
        return node is other
    return (node.kind, node.arm, node.phase) == (other.kind, other.arm, other.phase)


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
    node: Node,
    phase: PhaseSpec,
    materials: Mapping[str, Materials],
    unknown: list[str],
    cache: ForecastCache,
) -> PlannedPhase:
    data = materials[phase.name]
    terms = terms_of(context, phase, data.shapes.described)
    teachers = teachers_of_terms(terms)
    beside = [name for name in teachers if name not in data.recordings]
    key = _settings(context.assembly, phase)
    if key not in cache.outlines:
        cache.outlines[key] = _outline(context.assembly, phase, run, unknown)
    outline = cache.outlines[key]
    return PlannedPhase(
        name=phase.name,
        stage=node.name,
        arm=node.arm,
        steps=phase.steps,
        terms=terms,
        row_length=row_length(context.assembly, phase),
        outline=outline,
        facts=None if outline is None else outline.facts,
        beside=(*beside, *taken_by(beside, context.assembly.shared)),
        cached=tuple(name for name in teachers if name in data.recordings),
    )


def _outline(assembly: Assembly, phase: PhaseSpec, run: RunInfo, unknown: list[str]) -> LanguageModel | None:
    """Return the student's outline after the phase's transforms."""
    (student,) = assembly.of_kind("student")
    with assembly.scope(phase) as hooks:
        name, run = student, replace(run, hook=hooks)
        try:
            described = hooks.component(student, Student).kdtool_describe(run)
            transforming = Transforming(described) if isinstance(described, LanguageModel) else None
            for spec in phase.transforms:
                name = spec.path
                transform = hooks.component(name, Transform)
                if transforming is not None and transform.on_meta_device:
                    transforming.apply(transform, run)
        except Exception as error:
            missing_tokenizer = isinstance(error, ServiceError)
            if isinstance(error, KdtoolError) and not missing_tokenizer:
                raise
            unknown.append(f"the student's memory in training, since {hooks.owner(name)} failed: {_reason(error)}")
            return None
    return None if transforming is None else transforming.student


def _settings(assembly: Assembly, phase: PhaseSpec | None = None) -> str:
    """Return the settings that models depend on: those of student, teachers and the phase's transforms, in order."""
    shared = [built for built in assembly.built.values() if built.spec.kind in ("student", "teacher")]
    transforms = [assembly.built[spec.key] for spec in phase.transforms] if phase else []
    return repr(
        [(built.spec.use, built.spec.path * (built in shared), built.config) for built in (*shared, *transforms)]
    )


def _plan_signals(context: Context, run: RunInfo, recordings: Mapping[str, Recording]) -> Iterator[PlannedSignals]:
    """Yield the signals that caches will record."""
    for name, recording in recordings.items():
        phase = recording.wanted.phases[0]
        (packer,) = of_kind(phase.sources, "packer")
        tokens = sum(part.tokens for part in _answers(context.hooks, packer.path, run, RunForecast(), []))
        yield PlannedSignals(
            stage=name,
            cache=recording.cache,
            teacher=recording.wanted.teacher,
            want=recording.wanted.request_ahead(),
            row_length=row_length(context.assembly, phase),
            tokens=tokens,
        )


_PROCESS_BYTES = 580_000_000
"""Memory other than tensors: Python, torch, transformers, text (Linux, CPU). Fitted to runs: docs/benchmarks/memory.md."""


def estimate_process(ahead: RunForecast) -> Estimate:
    """Return the memory of every run in addition to its models."""
    return Estimate("process", ahead.stages, host_bytes=_PROCESS_BYTES, note="Python, torch, transformers")


def estimate_without_hook(owner: Owner, component: Any, ahead: RunForecast) -> Iterator[Estimate]:
    """Yield estimates for a component without `kdtool_estimate`; a note without a figure names what is unknown.

    Nothing is yielded for kinds that hold no model, such as losses, and for teachers that are a service.
    """
    facts, held = ahead.models.get(owner.name), ahead.student_bytes
    if owner.kind == "trainer":
        yield Estimate("memory and time of training", note=_missing("kdtool_estimate"))
    elif owner.kind == "evaluator":
        yield Estimate("measured student", ("scores",), compute_bytes=held)
    elif owner.kind == "exporter":
        yield Estimate("exported student", disk_bytes=held)
    elif owner.kind == "student" and facts is not None:
        yield Estimate("student before training", ("students",), host_bytes=bytes_of_weights(facts))
        yield Estimate("student before training", disk_bytes=bytes_of_weights(facts))
    elif owner.kind == "teacher" and facts is not None:
        yield Estimate("teacher", compute_bytes=bytes_of_weights(facts))
    elif owner.kind == "student" or (owner.kind == "teacher" and component.answer_cache_key is None):
        yield Estimate("memory", note=_missing("kdtool_describe"))


def _missing(hook: str) -> str:
    return f"its plugin does not implement {hook}"
