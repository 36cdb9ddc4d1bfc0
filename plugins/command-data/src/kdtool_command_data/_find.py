"""Find a recording: the signals planned by a recipe, or by the recipe of a finished run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool

from kdtool_command_data._results import read_results

__all__ = ["find_signals"]

_KIND = "signals/"
_BESIDE = "without a cache or a loss that uses the teacher, the teacher runs with the student"


def find_signals(
    source: Path, settings: Mapping[str, str], store: Path | None, name: str | None
) -> tuple[str, kdtool.RecordedSignals]:
    """Return the name of the signals and where they are recorded, perhaps incompletely.

    Args:
        source: a recipe's file, or the folder of a finished run.
        settings: overrides of the recipe.
        store: the folder shared by runs; None for the run's own, or the user's.
        name: name of the signals, with or without the prefix `signals/`; None if there is only one.

    Raises:
        UsageError: the recipe records none, they are not recorded yet, or several match.
    """
    recipe, store = _of_run(source, store) if source.is_dir() else (source, store)
    stages = kdtool.plan(recipe, settings, store=store)
    recorded = {stage.name: stage.signals for stage in stages if stage.signals is not None}
    if not recorded:
        raise kdtool.UsageError(
            f"{source} records no signals: {_BESIDE}; set `signals: {{use: states}}` to record them"
        )
    chosen = _choose(source, list(recorded), name)
    if not recorded[chosen].folder.is_dir():
        words = [
            "kdtool",
            "run",
            str(source),
            *(word for pair in settings.items() for word in ("--set", "=".join(pair))),
        ]
        words += ["--store", str(store)] if store is not None else []
        how = "run its recipe again" if source.is_dir() else f"record them with: {shlex.join(words)}"
        raise kdtool.UsageError(f"{chosen} of {source} is not recorded yet; {how}")
    return chosen, recorded[chosen]


def _choose(source: Path, names: list[str], name: str | None) -> str:
    if name is None and len(names) == 1:
        return names[0]
    wanted = [known for known in names if name in {known, known.removeprefix(_KIND)}]
    if wanted:
        return wanted[0]
    problem = f"{source} records several signals" if name is None else f"{source} records no signals called {name!r}"
    raise kdtool.UsageError(f"{problem}; choose with --signals: {', '.join(names)}")


def _of_run(folder: Path, store: Path | None) -> tuple[Mapping[str, Any], Path | None]:
    """Return the recipe of a finished run, and its store if none is given."""
    recipe, stages = read_results(folder)
    stores = [stage.path.parents[1] for stage in stages if stage.name.startswith(_KIND)]
    return recipe, store or next(iter(stores), None)
