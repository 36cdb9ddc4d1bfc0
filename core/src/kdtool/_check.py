"""What `kdtool check` finds out: a recipe is assembled, described and estimated; nothing is loaded, fetched or made.

Called by `kdtool._api.check`. Where the run would not fit, it is checked again with each of the changes that are proposed.
A sweep looks at its points in the same way before the first one runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdtool._assembly import Assembly, assemble
from kdtool._contract.models import ModelFacts
from kdtool._errors import ServiceError
from kdtool._estimate.ahead import Asked, ask, prospect_of
from kdtool._estimate.forecast import Forecast, add_up
from kdtool._estimate.machine import free_disk, memory_here
from kdtool._estimate.remedies import fitting, largest, proposals
from kdtool._estimate.speed import timed_by_record
from kdtool._estimate.tokens import refuse_uneven
from kdtool._recipe.model import Recipe
from kdtool._recipe.parse import load_recipe
from kdtool._run.artefacts import Artefacts
from kdtool._run.context import Context, close_components
from kdtool._run.data import try_packers
from kdtool._run.graph import Stage
from kdtool._run.licences import licences_of
from kdtool._run.missing import refuse_missing
from kdtool._run.ranks import rank_and_world
from kdtool._run.record import component_record
from kdtool._run.terms import mixtures_noted
from kdtool._run.vocabularies import compared_here

__all__ = ["check_recipe", "refuse_impossible"]


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
    out: Path,
    store: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Check a recipe; see `kdtool.check`."""
    found = _look(load_recipe(recipe, settings), out, say)
    memory = limit or memory_here()
    disk = min(free_disk(out), free_disk(store))
    fits = {
        "memory": not memory or found.forecast.memory.peak <= memory,
        "disk": found.forecast.disk_bytes <= disk,
    }

    def attempt(further: Mapping[str, Any]) -> tuple[int, int]:
        if not further:
            return _figures(found)
        return _figures(_look(load_recipe(recipe, {**settings, **further}), out, lambda _: None))

    proposed = proposals(found.assembly, found.asked) if fit or not fits["memory"] else []
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
            "limits": {"memory": memory, "disk": disk, "memory_given": limit is not None},
            "fits": fits,
            "remedies": [] if fits["memory"] else fitting(proposed, memory, attempt),
            "proposal": largest(proposed, memory, attempt) if fit else None,
        },
        mode="json",
    )
    return plain


def refuse_impossible(recipe: Recipe, out: Path) -> None:
    """Refuse what is known to be wrong with a run before weights load; takes a fraction of a second in a warm process.

    Args:
        recipe: what would run.
        out: the folder for runs.

    Raises:
        KdtoolError: as `check_recipe`.
    """
    _look(recipe, out, lambda _: None)


def _figures(found: _Checked) -> tuple[int, int]:
    (student,) = found.assembly.named("student")
    return found.forecast.memory.peak, found.models[student].parameters if student in found.models else 0


def _look(recipe: Recipe, out: Path, say: Callable[[str], None]) -> _Checked:
    assembly = assemble(recipe, say)
    assembly.complain = say
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        context = Context(
            assembly, folder, Artefacts(folder), Artefacts(folder), True, assembly.hooks(), world=rank_and_world()[1]
        )
        info = replace(context.info(Stage("check"), folder), say=say)  # nothing runs that trackers could show
        try:
            licences = licences_of(assembly, context.hooks)
            refuse_missing(assembly, info)
            with suppress(ServiceError):  # the student's tokenizer is not on this machine
                try_packers(context, info)
            models = context.hooks.kdtool_describe(info)
            ahead, unknown = prospect_of(context, info, models)
            asked = timed_by_record(ask(context, info, ahead, unknown), assembly, models, out / assembly.recipe.name)
            refuse_uneven(assembly, asked)
            learns = {phase.stage.removeprefix("phases/"): phase.facts for phase in ahead.phases}
            return _Checked(
                assembly=assembly,
                models=models,
                trainable={name: facts.trainable for name, facts in learns.items() if facts is not None},
                licences=licences,
                vocabularies=compared_here(context, info),
                asked=asked,
                forecast=add_up(ahead, asked, unknown),
            )
        finally:
            close_components(context.hooks, set(assembly.shared), say)
