"""`kdtool.check`: a recipe is assembled, described and estimated; nothing is loaded, fetched or made.

Where the run would not fit, it is checked again with each of the changes that are proposed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdtool._assembly.assemble import Assembly, assemble
from kdtool._contract.estimates import RunForecast
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.run_info import RunInfo
from kdtool._errors import ServiceError
from kdtool._estimate.gpus import Gpu, assume
from kdtool._estimate.history import apply_earlier_speed
from kdtool._estimate.machine import free_disk, memory_here, read_size
from kdtool._estimate.remedies import Attempt, fitting, largest, proposals
from kdtool._estimate.totals import Forecast, add_up
from kdtool._plugins.attribution import translate_errors
from kdtool._recipe.model import Recipe
from kdtool._recipe.read import load_recipe
from kdtool._results.files import component_record
from kdtool._run.build_graph import add_stages
from kdtool._run.context import Context
from kdtool._run.graph import Stage
from kdtool._run.preflight.equal_tokens import refuse_uneven
from kdtool._run.preflight.first_rows import try_corpora, try_packers
from kdtool._run.preflight.licences import licences_of
from kdtool._run.preflight.refusals import identify, refusals_with_places, refuse_missing
from kdtool._run.preflight.run_forecast import Asked, Known, ask, describe, run_forecast_of
from kdtool._run.preflight.vocabularies import compare_with_teachers
from kdtool._run.stages.terms import describe_mixtures
from kdtool._store.shared_store import store_folder
from kdtool._text.terminal import print_line


@dataclass(frozen=True)
class _Checked:
    """A recipe with its forecast; attempts at other settings leave out licences and vocabularies."""

    assembly: Assembly
    models: Mapping[str, ModelFacts]
    planned: RunForecast
    asked: list[Asked]
    forecast: Forecast
    licences: Any = ()
    vocabularies: Any = None


@dataclass(frozen=True)
class _Limits:
    """Bytes that a run may use; 0 for no limit. `memory_given`: by the user, not by this machine."""

    memory: int
    disk: int
    gpu: int
    memory_given: bool


def _limits(memory: int | None, gpu: Gpu | None, *folders: Path) -> _Limits:
    here = memory_here() if gpu is None else 0  # nothing is known of the machine with an assumed GPU
    return _Limits(memory or here, min(map(free_disk, folders)), gpu.memory if gpu else 0, memory is not None)


@dataclass(frozen=True)
class _Request:
    """The recipe to check; `known` is added to for later attempts."""

    recipe: Path | Mapping[str, Any]
    settings: Mapping[str, Any]
    out: Path
    store: Path
    gpu: Gpu | None
    show: Callable[[str], None]
    known: Known = field(default_factory=Known)

    def look(self) -> _Checked:
        """Check the recipe as it is."""
        self.show("checking components and estimating the run")
        with assume(self.gpu):
            return _look(load_recipe(self.recipe, self.settings), self.out, self._say, self.known, self.store)

    def look_at(self, further: Mapping[str, Any]) -> _Checked:
        """Check it with further settings."""
        self.show(f"trying {[*further][-1]}")
        changed = load_recipe(self.recipe, {**self.settings, **further})
        with assume(self.gpu), _opening(changed, lambda _: None, self.store) as (context, info):
            refuse_missing(context.assembly, info, self.known.complete)
            return _foresee(context, info, self.out, self.known)

    def _say(self, line: str) -> None:
        self.show("")
        print_line(line)


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
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Check a recipe without loading weights or fetching anything, and forecast its needs.

    Args:
        recipe: a file, or its content as a mapping.
        settings: key paths to values, laid over the recipe.
        memory: the limit in bytes, or text such as "8GB" (default: this machine's memory).
        fit: also look for the largest student that fits, and settings for it, in some seconds for each attempt.
        gpu: the name of a GPU, such as "a100-80gb", of a machine elsewhere: memory and time are estimated for it, from its
            published figures.
        out: the folder for runs; an earlier one of the same name shows how long training takes.
        store: the folder for text, rows and signals.
        progress: called with each step as it begins, and with "" before a line is printed.

    Returns:
        Plain data: `name`, `arms`, `components` with their settings, `models` (shapes), `licences` (terms, and what the
        student takes under them), `mixtures` (a line on each loss with several teachers at once), `vocabularies` (the
        student's beside each teacher's; null where a tokenizer is not on this machine), `forecast` (memory, disk, tokens,
        time, …), `fits`, `limits`, `remedies` and `proposal`.

    Raises:
        RecipeError: with all mistakes, or all that this machine lacks.
        UsageError: `memory` is not a size, or the GPU is unknown.
    """
    limit = read_size(memory) if isinstance(memory, str) else memory
    assumed = None if gpu is None else Gpu.find(gpu)
    path = Path(recipe) if isinstance(recipe, str) else recipe
    show = progress or (lambda _: None)
    asked = _Request(path, settings or {}, Path(out).absolute(), store_folder(store), assumed, show)
    found = asked.look()
    limits = _limits(limit, assumed, asked.out, asked.store)
    fits = {
        "memory": not limits.memory or found.forecast.memory.peak <= limits.memory,
        "gpu": not limits.gpu or found.forecast.device_memory.peak <= limits.gpu,
        "disk": found.forecast.disk_bytes <= limits.disk,
    }

    def attempt(further: Mapping[str, Any]) -> Attempt:
        return _attempt_of(asked.look_at(further) if further else found, limits)

    enough = fits["memory"] and fits["gpu"]
    proposed = proposals(found.assembly, found.asked) if fit or not enough else []
    return {
        **_describe(found),
        "limits": vars(limits),
        "fits": fits,
        "remedies": _plain([] if enough or fit else fitting(proposed, attempt)),
        "proposal": _plain(largest(proposed, attempt) if fit else None),
    }


def _describe(found: _Checked) -> dict[str, Any]:
    facts = {phase.stage.removeprefix("phases/"): phase.facts for phase in found.planned.phases}
    described: dict[str, Any] = _plain(
        {
            "name": found.assembly.recipe.name,
            "arms": list(found.assembly.arms),
            "components": [component_record(built) for built in found.assembly.built.values()],
            "models": found.models,
            "trainable": {name: own.trainable for name, own in facts.items() if own is not None},
            "licences": found.licences,
            "vocabularies": found.vocabularies,
            "mixtures": describe_mixtures(found.assembly),
            "forecast": found.forecast,
        }
    )
    return described


def _plain(value: Any) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json")


def _attempt_of(found: _Checked, limits: _Limits) -> Attempt:
    (student,) = found.assembly.of_kind("student")
    over: dict[str, int] = {}
    for held, limit in ((found.forecast.memory, limits.memory), (found.forecast.device_memory, limits.gpu)):
        above = {moment: sum(parts.values()) - limit for moment, parts in held.moments.items() if limit}
        over |= {moment: max(count, over.get(moment, 0)) for moment, count in above.items() if count > 0}
    peak = (found.forecast.device_memory if limits.gpu else found.forecast.memory).peak
    return Attempt(peak, found.models[student].parameters if student in found.models else 0, over)


def _look(recipe: Recipe, out: Path, say: Callable[[str], None], known: Known, store: Path | None = None) -> _Checked:
    """Check a recipe; `known` is added to for later attempts."""
    with _opening(recipe, say, store) as (context, info):
        licences = licences_of(context.assembly, context.hooks)
        refuse_missing(context.assembly, info, known.complete)
        identify(context, info, needed=False)
        with suppress(ServiceError):  # the student's tokenizer or the text is not on this machine
            try_packers(context, info)
            try_corpora(context, replace(info, say=lambda _: None))
        found = _foresee(context, info, out, known)
        vocabularies = compare_with_teachers(context, info, needed=False)
        with suppress(ServiceError):  # so a plan would need to fetch something
            add_stages(context)
        return replace(found, licences=licences, vocabularies=vocabularies)


@contextmanager
def _opening(recipe: Recipe, say: Callable[[str], None], store: Path | None) -> Iterator[tuple[Context, RunInfo]]:
    with assemble(recipe, say) as assembly, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        context = Context.of(assembly, folder, folder)
        info = replace(context.info(Stage("check")), say=say, store=store)  # nothing runs that trackers could show
        with refusals_with_places(assembly):
            yield context, info


def _foresee(context: Context, info: RunInfo, out: Path, known: Known) -> _Checked:
    models = describe(context, info, known)
    planned, unknown = run_forecast_of(context, info, models, known)
    answers = ask(context, info, planned, unknown)
    asked = apply_earlier_speed(answers, context.assembly, models, out / context.assembly.recipe.name)
    refuse_uneven(context.assembly, asked)
    return _Checked(context.assembly, models, planned, asked, add_up(planned, asked, unknown))
