"""What `kdtool check` finds out: a recipe is assembled, described and estimated; nothing is loaded, fetched or made.

Called by `kdtool._api.check`. Where the run would not fit, it is checked again with each of the changes that are proposed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdtool._assembly.assemble import Assembly, assemble
from kdtool._contract.estimates import RunForecast
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.run_info import RunInfo
from kdtool._errors import ServiceError
from kdtool._estimate.gpus import Gpu, assume
from kdtool._estimate.history import timed_by_record
from kdtool._estimate.machine import free_disk, memory_here
from kdtool._estimate.remedies import Attempt, fitting, largest, proposals
from kdtool._estimate.totals import Forecast, add_up
from kdtool._recipe.model import Recipe
from kdtool._recipe.read import load_recipe
from kdtool._results.files import component_record
from kdtool._run.context import Context
from kdtool._run.graph import Stage
from kdtool._run.preflight.component_checks import refuse_missing
from kdtool._run.preflight.equal_tokens import refuse_uneven
from kdtool._run.preflight.licences import licences_of
from kdtool._run.preflight.run_forecast import Asked, Known, ask, describe, run_forecast_of
from kdtool._run.preflight.vocabularies import compared
from kdtool._run.stages.rows import try_packers
from kdtool._run.stages.terms import mixtures_noted

__all__ = ["check_recipe"]


@dataclass(frozen=True)
class _Checked:
    """One look at a recipe: what is known of it, and what it will take."""

    assembly: Assembly
    models: Mapping[str, ModelFacts]
    trainable: Mapping[str, int]
    licences: Any
    vocabularies: Any
    asked: list[Asked]
    forecast: Forecast


def check_recipe(
    recipe: Path | Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    limit: int | None,
    fit: bool,
    gpu: Gpu | None,
    out: Path,
    store: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Check a recipe; see `kdtool.check`."""
    known = Known()
    with assume(gpu):
        found = _look(load_recipe(recipe, settings), out, say, known)
    # The memory of this machine says nothing of the one that a GPU is assumed in.
    memory = limit or (memory_here() if gpu is None else 0)
    on_gpu = 0 if gpu is None else gpu.memory
    disk = min(free_disk(out), free_disk(store))
    fits = {
        "memory": not memory or found.forecast.memory.peak <= memory,
        "gpu": not on_gpu or found.forecast.device_memory.peak <= on_gpu,
        "disk": found.forecast.disk_bytes <= disk,
    }

    def attempt(further: Mapping[str, Any]) -> Attempt:
        if not further:
            return _figures(found.assembly, found.models, found.forecast, memory, on_gpu)
        with assume(gpu), _opened(load_recipe(recipe, {**settings, **further}), lambda _: None) as (context, info):
            refuse_missing(context.assembly, info, known.fine)
            models, _, _, forecast = _foreseen(context, info, out, known)
            return _figures(context.assembly, models, forecast, memory, on_gpu)

    enough = fits["memory"] and fits["gpu"]
    proposed = proposals(found.assembly, found.asked) if fit or not enough else []
    proposal = largest(proposed, attempt) if fit else None
    plain: dict[str, Any] = TypeAdapter(Any).dump_python(
        {
            "name": found.assembly.recipe.name,
            "arms": list(found.assembly.arms),
            "components": [component_record(built) for built in found.assembly.built.values()],
            "models": found.models,
            "trainable": found.trainable,
            "licences": found.licences,
            "vocabularies": found.vocabularies,
            "mixtures": mixtures_noted(found.assembly),
            "forecast": found.forecast,
            "limits": {"memory": memory, "disk": disk, "gpu": on_gpu, "memory_given": limit is not None},
            "fits": fits,
            "remedies": [] if enough or fit else fitting(proposed, attempt),
            "proposal": proposal,
        },
        mode="json",
    )
    return plain


def _figures(
    assembly: Assembly, models: Mapping[str, ModelFacts], forecast: Forecast, memory: int, on_gpu: int
) -> Attempt:
    (student,) = assembly.named("student")
    over: dict[str, int] = {}
    for held, limit in ((forecast.memory, memory), (forecast.device_memory, on_gpu)):
        totals = {moment: sum(parts.values()) - limit for moment, parts in held.moments.items() if limit}
        over |= {moment: max(above, over.get(moment, 0)) for moment, above in totals.items() if above > 0}
    peak = (forecast.device_memory if on_gpu else forecast.memory).peak
    return Attempt(peak, models[student].parameters if student in models else 0, over)


def _look(recipe: Recipe, out: Path, say: Callable[[str], None], known: Known) -> _Checked:
    """Find out everything; `known` is added to for later attempts."""
    with _opened(recipe, say) as (context, info):
        licences = licences_of(context.assembly, context.hooks)
        refuse_missing(context.assembly, info, known.fine)
        with suppress(ServiceError):  # the student's tokenizer is not on this machine
            try_packers(context, info)
        models, ahead, asked, forecast = _foreseen(context, info, out, known)
        learns = {phase.stage.removeprefix("phases/"): phase.facts for phase in ahead.phases}
        return _Checked(
            assembly=context.assembly,
            models=models,
            trainable={name: facts.trainable for name, facts in learns.items() if facts is not None},
            licences=licences,
            vocabularies=compared(context, info, needed=False),
            asked=asked,
            forecast=forecast,
        )


@contextmanager
def _opened(recipe: Recipe, say: Callable[[str], None]) -> Iterator[tuple[Context, RunInfo]]:
    with assemble(recipe, say) as assembly, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        context = Context.of(assembly, folder, folder)
        yield context, replace(context.info(Stage("check"), folder), say=say)  # nothing runs that trackers could show


def _foreseen(
    context: Context, info: RunInfo, out: Path, known: Known
) -> tuple[Mapping[str, ModelFacts], RunForecast, list[Asked], Forecast]:
    """Return the models, what lies ahead, and what components answered, apart and added up."""
    models = describe(context, info, known)
    ahead, unknown = run_forecast_of(context, info, models, known)
    answers = ask(context, info, ahead, unknown)
    asked = timed_by_record(answers, context.assembly, models, out / context.assembly.recipe.name)
    refuse_uneven(context.assembly, asked)
    return models, ahead, asked, add_up(ahead, asked, unknown)
