"""The Python API that the commands call: `kdtool.run`, `plan`, `load`, `runs`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool._errors import UsageError, resumable
from kdtool._plugins.hooks import translate_errors
from kdtool._text.terminal import print_line

if TYPE_CHECKING:
    from kdtool._contract.reporting import Results
    from kdtool._contract.run_info import RunInfo
    from kdtool._results.runs import KnownRun
    from kdtool._run.context import Context
    from kdtool._run.plan import PlannedStage, RunGraph


@resumable()
@translate_errors()
def run(
    recipe: Path | str | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str = "runs",
    store: Path | str | None = None,
    offline: bool = False,
) -> Results:
    """Run a recipe and return its results; a second call resumes where the first stopped.

    Args:
        recipe: a file, the name of an installed recipe, or a recipe's content as a mapping.
        settings: key paths to values, laid over the recipe, such as {"teacher.use": "causal-lm"}.
        out: the folder for runs; this one works in `out/<name>`.
        store: the folder for text, rows and signals, which runs share; the user's cache by default.
        offline: use no network.

    Raises:
        KdtoolError: see `kdtool._errors` for the classes and their exit codes. `TargetMissedError` comes after the end:
            the run is whole, and its results are in `results.json` and on the error.

    Example:
        results = kdtool.run("quickstart", {"seeds": [0], "train.steps": 20})
        print(results.verdict)
    """
    from kdtool._assembly.assemble import assemble
    from kdtool._assembly.requirements import refuse_missed
    from kdtool._recipe.layers import locate_recipe
    from kdtool._recipe.parser import read_recipe
    from kdtool._run.execute import execute
    from kdtool._run.preflight import look
    from kdtool._store.shared import store_folder

    path = _as_path(recipe)
    loaded = read_recipe(path, settings)
    file = locate_recipe(Path(), str(path)) if isinstance(path, Path) else None
    text = file.read_text(encoding="utf-8-sig") if file else ""
    folder = Path(out).absolute() / loaded.name
    with assemble(loaded, print_line, look) as assembly:
        stored = store_folder(store)
        results = execute(assembly, folder, stored, offline=offline, recipe_text=text, needs=_memory_of_stages)
    refuse_missed(results)
    return results


@translate_errors()
def plan(
    recipe: Path | str | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str = "runs",
    store: Path | str | None = None,
) -> tuple[PlannedStage, ...]:
    """Return the stages of `run` with the same arguments: which would run, which are reused, and why.

    Nothing is made, and no network is used.

    Raises:
        KdtoolError: see `kdtool._errors`; the recipe is wrong, or what a fingerprint needs is not on this machine.
    """
    from kdtool._assembly.assemble import assemble
    from kdtool._recipe.parser import read_recipe
    from kdtool._run.plan import plan_run
    from kdtool._run.preflight import look
    from kdtool._store.shared import store_folder

    loaded = read_recipe(_as_path(recipe), settings)
    with assemble(loaded, print_line, look) as assembly:
        return plan_run(assembly, Path(out).absolute() / loaded.name, store_folder(store))


@translate_errors()
def load(run: Path | str, *, out: Path | str = "runs") -> Results:
    """Return the results of a finished run, as `run` returned them, from its `results.json`.

    Args:
        run: the run's folder, or its name below `out`.
        out: the folder for runs.

    Raises:
        UsageError: the run does not exist, or is not finished.
        StorageError: the file is damaged.

    Example:
        kdtool.load("quickstart").to_dataframe()
    """
    from kdtool._results.files import find_run, read_results, with_whole_paths

    return with_whole_paths(read_results(find_run(run, out)))


@translate_errors()
def runs(pattern: str = "", *, out: Path | str = "runs", store: Path | str | None = None) -> list[KnownRun]:
    """Return the runs in the folder for runs, and those elsewhere that use the same store, the latest first.

    Args:
        pattern: a part of the names that are wanted, or a pattern such as "quick*".
        out: the folder for runs.
        store: the folder that runs share; the user's cache by default.

    Returns:
        For each run `name`, `state` ("running", "done", "unfinished" or "damaged"), `when` (the time of its last work),
        `folder`, `bytes`, `figure` (the first measurement that was compared) and `outcome`.

    Raises:
        StorageError: the store's list of runs is damaged.
    """
    from kdtool._results.runs import list_runs
    from kdtool._run.context import open_remote
    from kdtool._store.shared import store_folder

    folder = store_folder(store)
    return list_runs(folder, Path(out), pattern, open_remote(folder).runs())


@translate_errors()
def report(run: Path | str, use: str | None = None, *, out: Path | str = "runs") -> Path:
    """Write the report of a finished run again and return its path.

    Args:
        run: the run's folder, or its name below `out`.
        use: the reporter; by default that of the run's recipe, else the only one installed.
        out: the folder for runs.

    Raises:
        UsageError: the run does not exist, is not finished, or does not name a reporter.
        RecipeError: the reporter is not installed, or no longer accepts the settings of the run.
    """
    from kdtool._results.files import find_run, read_results

    return report_of(read_results(find_run(run, out)), use)


def report_of(results: Results, use: str | None = None) -> Path:
    """Write a report of results into their folder; arguments and errors are those of `report`."""
    from kdtool._assembly.assemble import assemble
    from kdtool._contract.reporting import Reporter
    from kdtool._contract.run_info import RunInfo
    from kdtool._plugins.registry import entries_by_name
    from kdtool._recipe.model import ComponentSpec, Recipe
    from kdtool._run.context import NoTexts

    configs = {record.use: record.config for record in results.components if record.kind == "reporter"}
    use = use or next(iter([*configs, *entries_by_name("reporter")]), None)
    if use is None:
        raise UsageError("no reporter is installed; install a package with one: `kdtool plugins list` then shows it")
    spec = ComponentSpec("reporter", "reporter", "reporter", use, configs.get(use, {}), ("reporter",))
    with assemble(Recipe(results.name, (0,), (spec,), (), None, {}, {}), print_line) as assembly:
        run = RunInfo(results.name, "report", results.folder, assembly.hooks(), NoTexts())
        return run.component(spec.path, Reporter).kdtool_report(run, results)


def _memory_of_stages(context: Context, run: RunInfo, run_graph: RunGraph) -> dict[str, tuple[int, int]]:
    from kdtool._estimate.totals import memory_of_stages

    return memory_of_stages(context, run, run_graph)


def _as_path(recipe: Path | str | Mapping[str, Any]) -> Path | Mapping[str, Any]:
    return Path(recipe) if isinstance(recipe, str) else recipe
