"""`kdtool.check`: a recipe is assembled, described and estimated; nothing is loaded, fetched or made.

Where the run would not fit, it is checked again with each of the changes that are proposed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdtool._assembly.assemble import Assembly, assemble
from kdtool._contract.estimates import RunForecast
from kdtool._contract.licences import Licensed, licence_lines
from kdtool._contract.run_info import RunInfo
from kdtool._errors import ServiceError
from kdtool._estimate.gpus import Gpu, assume
from kdtool._estimate.machine import free_disk, memory_here, read_size
from kdtool._estimate.remedies import Attempt, leave_out_lost, proposals, propose
from kdtool._estimate.run_forecast import AttributedEstimate, ForecastCache, ask, describe, forecast_of
from kdtool._estimate.totals import Forecast, add_up
from kdtool._plugins.attribution import translate_errors
from kdtool._recipe.read import load_recipe
from kdtool._results.files import component_record
from kdtool._run.build_graph import build_graph
from kdtool._run.context import Context
from kdtool._run.preflight.equal_tokens import refuse_uneven_trainers
from kdtool._run.preflight.first_rows import try_corpora, try_packers
from kdtool._run.preflight.licences import licences_of
from kdtool._run.preflight.refusals import identify, refusals_with_places, refuse
from kdtool._run.preflight.vocabularies import compare_with_teachers, describe_vocabularies
from kdtool._run.stages.phases import training_title
from kdtool._run.stages.terms import describe_mixtures
from kdtool._store.shared_store import store_folder
from kdtool._text.terminal import print_line
from kdtool._tokenizers.vocabulary import Vocabularies


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
        Plain data: `name`, `arms`, `components` with their settings, `models` (shapes), `stages` (names and titles),
        `licences` (terms, and what the student takes under them) and `terms` (the same in lines), `vocabularies` (the
        student's compared with each teacher's; null if a tokenizer is not on this machine), `notes` (lines on these, and on
        losses with several teachers at once),
        `forecast` (memory, disk, tokens, time, …), `fits`, `limits`, and `proposal`: settings with which the run fits.

    Raises:
        RecipeError: with all mistakes, or all that this machine lacks.
        UsageError: `memory` is not a size, or the GPU is unknown.
    """
    limit = read_size(memory) if isinstance(memory, str) else memory
    assumed = None if gpu is None else Gpu.find(gpu)
    path = Path(recipe) if isinstance(recipe, str) else recipe
    stored = store_folder(store)
    look = partial(_check, path, settings or {}, stored, assumed, ForecastCache())
    checked = look()
    here = memory_here() if assumed is None else 0  # the memory of the machine with an assumed GPU is unknown
    free = min(free_disk(Path(out).absolute()), free_disk(stored))
    limits = {"memory": limit or here, "disk": free, "gpu": assumed.memory if assumed else 0}  # 0 for none
    forecast = checked.forecast
    needed = {"memory": forecast.memory.peak, "gpu": forecast.device_memory.peak, "disk": forecast.disk_bytes}
    fits = {key: count <= limits[key] or (key != "disk" and not limits[key]) for key, count in needed.items()}

    def attempt(further: Mapping[str, Any]) -> Attempt:
        return _attempt_of(look(further) if further else checked, limits)

    proposal = None
    if fit or not (fits["memory"] and fits["gpu"]):
        proposal = propose(proposals(checked.assembly, checked.asked), attempt, larger=fit)
        proposal = proposal and leave_out_lost(proposal, checked.assembly)
    return {**_describe(checked), "limits": limits, "fits": fits, "proposal": _plain(proposal)}


def _check(
    path: Path | Mapping[str, Any],
    settings: Mapping[str, Any],
    store: Path,
    gpu: Gpu | None,
    cache: ForecastCache,
    further: Mapping[str, Any] | None = None,
) -> _Checked:
    """Check a recipe; with `further` settings only what these may change. The cache is added to."""
    say: Callable[[str], None] = print_line if not further else lambda _: None
    with (
        assume(gpu),
        assemble(load_recipe(path, {**settings, **(further or {})}), say) as assembly,
        tempfile.TemporaryDirectory() as scratch,
        refusals_with_places(assembly),
    ):
        context = replace(Context.of(assembly, Path(scratch), Path(scratch)), forecast=True)
        info = replace(context.info(), stage="check", say=say, store=store)  # no tracker shows anything
        licences = () if further else licences_of(assembly)
        refuse(assembly, info, "start", complete=cache.complete)
        if not further:
            identify(context, info)
            with suppress(ServiceError):  # the student's tokenizer or the text is not on this machine
                try_packers(context, info)
                try_corpora(context, replace(info, say=lambda _: None))
        return replace(_foresee(context, info, cache), licences=licences)


def _describe(checked: _Checked) -> dict[str, Any]:
    facts = {training_title(phase.arm, phase.name): phase.facts for phase in checked.ahead.phases}
    described: dict[str, Any] = _plain(
        {
            "name": checked.assembly.recipe.name,
            "arms": list(checked.assembly.arms),
            "components": [component_record(built) for built in checked.assembly.built.values()],
            "models": checked.ahead.models,
            "stages": checked.titles,
            "trainable": {name: each.trainable for name, each in facts.items() if each is not None},
            "licences": checked.licences,
            "vocabularies": checked.vocabularies,
            "terms": list(licence_lines(checked.licences, checked.assembly.recipe.name)),
            "notes": [*describe_vocabularies(checked.vocabularies), *describe_mixtures(checked.assembly)],
            "forecast": checked.forecast,
        }
    )
    return described


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
    refuse_uneven_trainers(context.assembly)
    models = describe(context, info, cache)
    vocabularies = compare_with_teachers(context, info)
    run_graph = build_graph(context, models)
    ahead, unknown = forecast_of(context, info, models, run_graph, cache)
    asked = ask(context, info, ahead, run_graph, unknown)
    nodes = run_graph.graph.nodes
    forecast = add_up(ahead, asked, unknown, {name: tuple(node.teachers) for name, node in nodes.items()})
    titles = {name: node.title for name, node in nodes.items()}
    return _Checked(context.assembly, ahead, titles, asked, forecast, vocabularies)
