"""Send the events of a run to a tracker, from the run's log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import Assembly, assemble
from kdtool._contract.reporting import Tracker
from kdtool._contract.run_info import RunInfo
from kdtool._errors import RecipeError, UsageError
from kdtool._plugins.hooks import ComponentHooks
from kdtool._recipe.layers import compose, settings_layer
from kdtool._recipe.model import ComponentSpec, Recipe
from kdtool._recipe.yaml import Place, as_node
from kdtool._run.context import NoTexts
from kdtool._run.event_log import Event, read_events, superseded_steps
from kdtool._run.preflight.refusals import refuse
from kdtool._store.layout import EVENTS
from kdtool._store.locks import run_lock
from kdtool._text.names import NAME
from kdtool._text.terminal import print_line


@dataclass
class Synced:
    """Counts of events: those that the tracker got, steps that the run made again later, and damaged lines.

    `use` is the tracker's name as a plugin.
    """

    sent: int = 0
    superseded: int = 0
    damaged: int = 0
    use: str = ""


def sync_run(folder: Path, to: str, settings: Mapping[str, Any], advance: Callable[[int], object]) -> Synced:
    """Send all events of a run to a tracker, as if it had been in the recipe. An error of the tracker is raised.

    Args:
        folder: the run's folder.
        to: a tracker of the run by its name in the recipe, whose settings it gets, or any tracker's `use`.
        settings: settings of the tracker, over those of the recipe.
        advance: called with the number of bytes read from the log.

    Raises:
        UsageError: the run has no log, there is no such tracker, or its settings are wrong.
        LockedError: a process works on the run.
    """
    if not (folder / EVENTS).is_file():
        raise UsageError(
            f"{folder} has no {EVENTS}, so there are no events to send; run its recipe again, which reuses what is finished"
        )
    run = RunInfo(folder.name, "run", folder, ComponentHooks({}), NoTexts(), say=print_line)
    used: dict[str, Any] = {}

    def events() -> Iterator[Event]:
        for event in read_events(run):
            used.update(event.line.get("trackers", {}))
            yield event

    done = Synced()
    with run_lock(folder):
        superseded = superseded_steps(events())
        with _assemble_tracker(folder, to, used, settings) as assembly:
            refuse(assembly, run, "start")
            (name,) = assembly.of_kind("tracker")
            done.use = next(built.spec.use for built in assembly.built.values() if built.spec.kind == "tracker")
            tracker = assembly.hooks().component(name, Tracker)
            for number, event in enumerate(read_events(replace(run, hook=assembly.hooks()))):
                advance(event.bytes)
                done.superseded += number in superseded
                done.damaged += not event.hook
                if event.hook and number not in superseded:
                    getattr(tracker, event.hook)(**event.values)
                    done.sent += 1
    return done


def _assemble_tracker(folder: Path, to: str, used: Mapping[str, Any], settings: Mapping[str, Any]) -> Assembly:
    """Return an assembly of only the tracker; its mistakes are reported without a recipe, which nobody wrote."""
    try:
        return assemble(_recipe(folder.name, to, used, settings), print_line)
    except RecipeError as error:
        lines = (f"{problem.message}\n  {problem.remedy}".rstrip() for problem in error.problems)
        raise UsageError("\n".join(lines)) from error


def _recipe(run: str, to: str, used: Mapping[str, Any], settings: Mapping[str, Any]) -> Recipe:
    """Return a recipe with only one tracker. It is required, so that an error in it is raised."""
    own = used.get(to) or next((entry for entry in used.values() if entry["use"] == to), {"use": to})
    name = to if NAME.fullmatch(to) else "tracker"
    below = as_node({"trackers": {name: own}}, Place("", 0, 0, Path.cwd()))
    composed = compose([below, settings_layer({f"trackers.{name}.{key}": value for key, value in settings.items()})])
    options = composed.plain()["trackers"][name]
    key = ("trackers", name)
    spec = ComponentSpec(".".join(key), name, "tracker", options.pop("use"), options, key, required=True)
    return Recipe(run, (0,), (spec,), (), None, {}, composed.places())
