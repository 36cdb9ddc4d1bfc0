"""`kdtool.check`: a recipe is assembled, described and estimated; nothing is loaded, fetched or made.

Where the run would not fit, it is checked again with each of the changes that are proposed. Components propose settings
(`Estimate.savings`), installed transforms with a known cost (`Transform.saves_memory`) are proposed for phases without
them, and evaluators can be left out. Changes that leave the result as it is come first, then evaluators, then changes of
the result. A change is tried only where it can help: at a moment of the run that does not fit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdtool._assembly.assemble import Assembly, assemble
from kdtool._assembly.trust import find_marked, lost_without
from kdtool._contract.component import KEY_VARIABLE, PATH_OR_NAME
from kdtool._contract.licences import Licensed, licence_lines
from kdtool._contract.run_info import Estimate, Gpu, RunForecast, RunInfo, assume
from kdtool._contract.training import Student, Transform
from kdtool._errors import KdtoolError, RecipeError, ServiceError
from kdtool._estimate.forecast import AttributedEstimate, ForecastCache, ask, describe, forecast_of
from kdtool._estimate.machine import free_disk, memory_here, read_size
from kdtool._estimate.totals import Forecast, add_up
from kdtool._plugins.hooks import translate_errors
from kdtool._plugins.registry import entries_by_name, load
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec
from kdtool._recipe.parser import read_recipe
from kdtool._results.files import component_record
from kdtool._run.comparability import compare_with_teachers, describe_vocabularies
from kdtool._run.context import Context
from kdtool._run.plan import build_graph
from kdtool._run.preflight import look, missing_keys, preflight, refusals_with_places, refuse, try_corpora, unwritable
from kdtool._run.stages.phases import training_title
from kdtool._run.stages.terms import describe_mixtures
from kdtool._statistics import ENOUGH, FEWEST
from kdtool._store.shared import store_folder
from kdtool._text.terminal import count_of, print_line
from kdtool._tokenizers import Vocabularies


@dataclass(frozen=True)
class _Checked:
    """A recipe with its forecast. `titles` are the run's stages in words; attempts at other settings leave out licences."""

    assembly: Assembly
    ahead: RunForecast
    titles: Mapping[str, str]
    asked: list[AttributedEstimate]
    forecast: Forecast
    vocabularies: Mapping[str, Vocabularies | None]
    licences: tuple[Licensed, ...] = ()
    documents: Mapping[str, int] = field(default_factory=dict)


@translate_errors()
def check(
    recipe: Path | str | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    memory: int | str | None = None,
    fit: bool = False,
    gpu: str | None = None,
    out: Path | str = "runs",
    store: Path | str | None = None,
) -> dict[str, Any]:
    """Check a recipe without loading weights or fetching anything, and forecast its needs.

    Args:
        recipe: a file, or its content as a mapping.
        settings: key paths to values, laid over the recipe.
        memory: the limit in bytes, or text such as "8GB" (default: this machine's memory).
        fit: also look for the largest student that fits, and settings for it, in some seconds for each attempt.
        gpu: the name of a GPU, such as "a100-80gb", of a machine elsewhere: memory and time are estimated for it, from its
            published figures.
        out: the folder for runs, whose disk counts.
        store: the folder for text, rows and signals.

    Returns:
        Plain data: `name`, `arms`, `components` with their settings, `files` and `variables` (the paths and the environment
        variables that settings name, by key), `models` (shapes), `stages` (names and titles),
        `licences` (terms, and what the student takes under them) and `terms` (the same in lines), `vocabularies` (the
        student's compared with each teacher's; null if a tokenizer is not on this machine), `notes` (lines on these, and on
        losses with several teachers at once), `documents` (by split, if evaluators read text of fewer than 1,000),
        `warnings` (lines on too few of them for a verdict),
        `forecast` (memory, disk, tokens, time, …), `fits`, `limits`, `lacks` (lines on keys and folders without which a run
        would end at its start), and `proposal`: settings with which the run fits.

    Raises:
        RecipeError: with all mistakes, or all that this machine lacks; its `settings` are those that resolve them.
        UsageError: `memory` is not a size, or the GPU is unknown.
    """
    limit = read_size(memory) if isinstance(memory, str) else memory
    assumed = None if gpu is None else Gpu.find(gpu)
    path = Path(recipe) if isinstance(recipe, str) else recipe
    stored = store_folder(store)
    look = partial(_check, path, settings or {}, stored, assumed, ForecastCache())
    try:
        checked = look()
    except RecipeError as error:
        raise resolve(error, partial(look, whole=True)) from error
    folder, forecast = Path(out).absolute(), checked.forecast
    limits = _limits(limit, assumed, min(free_disk(folder), free_disk(stored)))
    needed = {"memory": forecast.memory.peak, "gpu": forecast.device_memory.peak, "disk": forecast.disk_bytes}
    fits = {key: count <= limits[key] or (key != "disk" and not limits[key]) for key, count in needed.items()}

    def attempt(further: Mapping[str, Any]) -> Attempt:
        return _attempt_of(look(further) if further else checked, limits)

    proposal = None
    if fit or not (fits["memory"] and fits["gpu"]):
        proposal = propose(proposals(checked.assembly, checked.asked), attempt, larger=fit)
        proposal = proposal and leave_out_lost(proposal, checked.assembly)
    lacks = [*missing_keys(checked.assembly), *forecast.lacks, *(() if assumed else unwritable(folder, stored))]
    lacks = [*dict.fromkeys(lacks)]
    return {**_describe(checked), "limits": limits, "fits": fits, "lacks": lacks, "proposal": _plain(proposal)}


def _limits(memory: int | None, gpu: Gpu | None, disk: int) -> dict[str, int]:
    """Return the bytes that a run may take; 0 for none, and for the main memory of another machine."""
    if gpu is None:
        return {"memory": memory or memory_here(), "disk": disk, "gpu": 0}
    main, own = (gpu.memory, 0) if gpu.unified else (0, gpu.memory)
    return {"memory": memory or main, "disk": disk, "gpu": own}


def _check(
    path: Path | Mapping[str, Any],
    settings: Mapping[str, Any],
    store: Path,
    gpu: Gpu | None,
    cache: ForecastCache,
    further: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
) -> _Checked:
    """Check a recipe; with `further` settings only what these may change, unless the `whole`. The cache is added to."""
    said = set[str]()

    def say(line: str) -> None:
        if not further and line not in said:
            said.add(line)
            print_line(line)

    with (
        assume(gpu),
        assemble(read_recipe(path, {**settings, **(further or {})}), say, look) as assembly,
        tempfile.TemporaryDirectory() as scratch,
        refusals_with_places(assembly),
    ):
        context = replace(Context.of(assembly, Path(scratch), Path(scratch)), forecast=True)
        info = replace(context.info(), stage="check", say=say, store=store)  # no tracker shows anything
        documents: Mapping[str, int] = {}
        if further and not whole:
            refuse(assembly, info, "start", complete=cache.complete)
        else:
            preflight(context, info, complete=cache.complete)
            with suppress(ServiceError):  # the student's tokenizer or the text is not on this machine
                documents = try_corpora(context, replace(info, say=lambda _: None))
        return replace(_foresee(context, info, cache), licences=context.licences, documents=documents)


_ROUNDS = 8
"""The most checks in search of settings with which a refused recipe is accepted."""


def resolve(error: RecipeError, attempt: Callable[[Mapping[str, Any]], object]) -> RecipeError:
    """Return a refusal with the settings that resolve it, and the problems that others hid.

    The settings that problems name are tried together until the recipe is accepted, or none is left.
    """
    problems, left, tried = [*error.problems], error.problems, dict[str, Any]()
    for _ in range(_ROUNDS):
        further = {key: value for problem in left for key, value in problem.settings.items()}
        if further.items() <= tried.items():
            break
        tried |= further
        try:
            attempt(tried)
        except RecipeError as refused:
            known = {(problem.key, problem.message) for problem in problems}
            left = refused.problems
            problems += [problem for problem in left if (problem.key, problem.message) not in known]
        except KdtoolError:
            break
        else:
            return RecipeError(problems, tried)
    return RecipeError(problems)


def _describe(checked: _Checked) -> dict[str, Any]:
    facts = {training_title(phase.arm, phase.name): phase.facts for phase in checked.ahead.phases}
    components = checked.assembly.built.values()
    named = [each for built in components for each in find_marked(built.config, built.spec.key)]
    files = {(*built.spec.key, "use"): built.loaded.source for built in components if built.loaded.source}
    files |= {each.key: Path(each.value) for each in named if each.mark in {None, PATH_OR_NAME}}
    described: dict[str, Any] = _plain(
        {
            "name": checked.assembly.recipe.name,
            "arms": list(checked.assembly.arms),
            "components": [component_record(built) for built in components],
            "files": {as_written(key): path for key, path in files.items() if path.exists()},
            "variables": {as_written(each.key): each.value for each in named if each.mark == KEY_VARIABLE},
            "models": checked.ahead.models,
            "stages": checked.titles,
            "trainable": {name: each.trainable for name, each in facts.items() if each is not None},
            "licences": checked.licences,
            "vocabularies": checked.vocabularies,
            "terms": list(licence_lines(checked.licences, checked.assembly.recipe.name)),
            "notes": [*describe_vocabularies(checked.vocabularies), *describe_mixtures(checked.assembly)],
            "documents": checked.documents,
            "warnings": list(_warnings(checked.documents, checked.assembly.option_for_more_test_text())),
            "forecast": checked.forecast,
        }
    )
    return described


def _warnings(documents: Mapping[str, int], option: str) -> Iterator[str]:
    """Yield a line if there will be too few test documents for a verdict."""
    if documents and (count := documents.get("test", 0)) < FEWEST:
        needed = f"a verdict needs {FEWEST}, and {ENOUGH} show smaller differences"
        more = f"set aside more of the text{option and f', such as {option}'}"
        yield f"only {count} of {count_of(sum(documents.values()), 'document')} for the test: {needed}; {more}"


def _plain(value: Any) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json")


def _attempt_of(found: _Checked, limits: Mapping[str, int]) -> Attempt:
    (student,) = found.assembly.of_kind("student")
    over: dict[str, int] = {}
    for held, limit in ((found.forecast.memory, limits["memory"]), (found.forecast.device_memory, limits["gpu"])):
        above = {moment: sum(parts.values()) - limit for moment, parts in held.moments.items() if limit}
        over |= {moment: max(count, over.get(moment, 0)) for moment, count in above.items() if count > 0}
    peak = (found.forecast.device_memory if limits["gpu"] else found.forecast.memory).peak
    return Attempt(peak, found.ahead.models[student].parameters if student in found.ahead.models else 0, over)


def _foresee(context: Context, info: RunInfo, cache: ForecastCache) -> _Checked:
    models = describe(context, info, cache)
    vocabularies = compare_with_teachers(context, info)
    run_graph = build_graph(context, models)
    ahead, unknown = forecast_of(context, info, models, run_graph, cache)
    asked = ask(context, info, ahead, run_graph, unknown)
    nodes = run_graph.graph.nodes
    forecast = add_up(ahead, asked, unknown, {name: tuple(node.teachers) for name, node in nodes.items()})
    titles = {name: node.title for name, node in nodes.items()}
    return _Checked(context.assembly, ahead, titles, asked, forecast, vocabularies)


_TRIES = 48
"""The most recipes that are checked for one answer."""


@dataclass(frozen=True)
class Remedy:
    """Settings to lay over the recipe, their cost, and the resulting peak (bytes) and parameters of the student.

    `stages` are those in which it saves memory; () if that may be any.
    """

    settings: Mapping[str, Any]
    cost: str
    changes_result: bool
    of_student: bool = False
    peak: int = 0
    parameters: int = 0
    stages: tuple[str, ...] = ()

    def touches(self, moment: str) -> bool:
        """Return whether it may save memory at this moment of the run."""
        return not self.stages or moment in self.stages or moment.partition(": ")[0] in self.stages


@dataclass(frozen=True)
class Attempt:
    """A checked recipe: its peak, the student's parameters, and the bytes above the limit of moments that exceed it."""

    peak: int
    parameters: int
    over: Mapping[str, int]


_AS_IT_IS = Remedy({}, "", changes_result=False)
Try = Callable[[Mapping[str, Any]], Attempt]
"""Checks the recipe with further settings."""
Tries = Callable[[Mapping[str, Any]], Attempt | None]
"""The same, where None stands for settings that cannot be checked."""


def proposals(assembly: Assembly, asked: Sequence[AttributedEstimate]) -> list[Remedy]:
    """Return the proposals of components and transforms, cheapest first, untried."""
    specs = {built.spec.path: built.spec for built in assembly.built.values()}
    proposed: dict[str, Remedy] = {}
    for part in asked:
        for remedy in _proposed_by(part.estimate, specs[part.component]) if part.component in specs else ():
            earlier = proposed.setdefault(str(remedy.settings), remedy)
            if earlier.stages and remedy.stages:
                stages = tuple(dict.fromkeys([*earlier.stages, *remedy.stages]))
                proposed[str(remedy.settings)] = replace(earlier, stages=stages)
    return sorted([*proposed.values(), *_transforms(assembly, asked)], key=_rank)


def propose(remedies: Sequence[Remedy], attempt: Try, *, larger: bool) -> Remedy | None:
    """Return the proposal with the largest student that fits, with the fewest other changes; None where none does.

    Unless `larger`, no student is larger than the recipe's.
    """
    left = iter(range(_TRIES))

    def tries(settings: Mapping[str, Any]) -> Attempt | None:
        """Return None beyond the most tries, and for settings that the recipe refuses."""
        with suppress(KdtoolError):  # a library that is not installed, two adapters in one phase
            return attempt(settings) if next(left, None) is not None else None
        return None

    students = [_AS_IT_IS, *(remedy for remedy in remedies if remedy.of_student)]
    others = [remedy for remedy in remedies if not remedy.of_student]
    known = [(student, state) for student in students if (state := tries(student.settings)) is not None]
    wanted = [entry for entry in known if larger or entry[1].parameters <= known[0][1].parameters]
    largest_first = sorted(wanted, key=lambda entry: -entry[1].parameters)
    combined = (_combine(student, state, others, tries) for student, state in largest_first)
    return next(filter(None, combined), None)


def leave_out_lost(remedy: Remedy, assembly: Assembly) -> Remedy:
    """Return the remedy that also leaves out components that it leaves nothing to compare with."""
    classes = {as_written(b.spec.key): type(assembly.shared[b.spec.path]) for b in assembly.built_for().values()}
    left_out = {key for key, value in remedy.settings.items() if value is False}
    lost = lost_without(left_out, classes) if left_out else []
    costs = [remedy.cost, *(f"without {name}, which has nothing left to compare with" for name in lost)]
    return replace(remedy, settings={**remedy.settings, **dict.fromkeys(lost, False)}, cost="; ".join(costs))


def _combine(start: Remedy, state: Attempt, options: Iterable[Remedy], tries: Tries) -> Remedy | None:
    """Add options, cheapest first, where they lower the worst moment, until everything fits; None where it never does."""
    current, left = start, sorted(options, key=_rank)
    while state.over:
        worst = max(state.over, key=state.over.__getitem__)
        for option in [option for option in left if option.touches(worst)]:
            left.remove(option)
            joined = _join(current, option)
            tried = tries(joined.settings)
            if tried is not None and tried.over.get(worst, 0) < state.over[worst]:
                current, state = joined, tried
                break
        else:
            return None
    return replace(current, peak=state.peak, parameters=state.parameters)


def _join(first: Remedy, second: Remedy) -> Remedy:
    replaced = set(first.settings) <= set(second.settings)  # a smaller batch in place of a small one
    return Remedy(
        settings={**first.settings, **second.settings},
        cost=second.cost if replaced else "; ".join(dict.fromkeys(filter(None, (first.cost, second.cost)))),
        changes_result=first.changes_result or second.changes_result,
        of_student=first.of_student or second.of_student,
    )


def _rank(remedy: Remedy) -> tuple[bool, int]:
    return remedy.of_student, 2 if remedy.changes_result else int(
        any(value is False for value in remedy.settings.values())
    )


def _proposed_by(estimate: Estimate, spec: ComponentSpec) -> Iterator[Remedy]:
    """Yield the savings of one estimate, and leaving out an evaluator that holds memory."""
    prefix, stages = as_written(spec.key), estimate.stages
    for saving in estimate.savings:
        settings = {f"{prefix}.{key}": value for key, value in saving.settings.items()}
        yield Remedy(settings, saving.cost, saving.changes_result, of_student=spec.kind == "student", stages=stages)
    if spec.kind == "evaluator" and stages:
        cost = f"without the evaluator {spec.path.rpartition('.')[2]}"
        yield Remedy({prefix: False}, cost, changes_result=False, stages=stages)


def _transforms(assembly: Assembly, asked: Sequence[AttributedEstimate]) -> Iterator[Remedy]:
    (student,) = assembly.of_kind("student").values()
    random = isinstance(student, Student) and student.uses_seed
    for name in entries_by_name("transform"):
        try:
            cls = load("transform", name, Path.cwd(), assembly.complain).cls
        except KdtoolError:
            continue
        saving = cls.saves_memory if issubclass(cls, Transform) else None
        if saving is None:
            continue
        for number, phase in enumerate(assembly.arms["student"]):
            frozen = saving.freezes and random and number == 0  # weights that were never trained
            if not frozen and name not in {spec.use for spec in phase.transforms}:
                settings = {as_written((*phase.key, "transforms", name)): dict(saving.settings)}
                moments = (moment for part in asked if part.phase == phase.name for moment in part.estimate.stages)
                stages = tuple(dict.fromkeys(moment.partition(": ")[0] for moment in moments))
                yield Remedy(settings, saving.cost, saving.changes_result, stages=stages)
