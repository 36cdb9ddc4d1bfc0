"""The Python API, with the command line's power: `kdtool.run`, `kdtool.plan`, `kdtool.check`, `kdtool.report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool._errors import UsageError
from kdtool._plugins.attribution import translate_errors
from kdtool._text.terminal import print_line

if TYPE_CHECKING:
    from kdtool._contract.reporting import Results
    from kdtool._run.plan import PlannedStage

__all__ = ["check", "plan", "report", "report_of", "run"]


@translate_errors()
def run(
    recipe: Path | str | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str = "runs",
    store: Path | str | None = None,
    offline: bool = False,
    verify: bool = False,
    trace: Callable[[str], None] | None = None,
) -> Results:
    """Run a recipe and return its results; a second call goes on where the first stopped.

    Args:
        recipe: a file, or the same as a mapping.
        settings: key paths to values, laid over the recipe, such as {"teacher.use": "causal-lm"}.
        out: the folder for runs; this one works in `out/<name>`.
        store: the folder for text, rows and signals, which runs share; the user's cache by default.
        offline: use no network.
        verify: compare all that is reused with what was written, byte by byte; else what is read to make something new.
        trace: is told of every hook call.

    Raises:
        KdtoolError: see `kdtool._errors` for the classes and their exit codes. `TargetMissedError` comes after the end:
            the run is whole, and its results are in `results.json` and on the error.

    Example:
        results = kdtool.run("recipes/quickstart.yaml", {"seeds": [0], "train.steps": 20})
        print(results.verdict)
    """
    from kdtool._assembly.assemble import assemble
    from kdtool._assembly.checks.requirements import refuse_missed
    from kdtool._recipe.read import load_recipe
    from kdtool._run.execute import execute
    from kdtool._store.shared_store import store_folder

    path = Path(recipe) if isinstance(recipe, str) else recipe
    loaded = load_recipe(path, settings)
    text = path.read_text(encoding="utf-8-sig") if isinstance(path, Path) else ""
    folder = Path(out).absolute() / loaded.name
    with assemble(loaded, print_line, trace) as assembly:
        results = execute(assembly, folder, store_folder(store), offline=offline, recipe_text=text, verify=verify)
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
    """Say what `run` with the same arguments would do: which stages run, which are reused, and why.

    Nothing is made, and no network is used.

    Raises:
        KdtoolError: see `kdtool._errors`; the recipe is wrong, or what a fingerprint needs is not on this machine.
    """
    from kdtool._assembly.assemble import assemble
    from kdtool._recipe.read import load_recipe
    from kdtool._run.plan import plan_run
    from kdtool._store.shared_store import store_folder

    loaded = load_recipe(Path(recipe) if isinstance(recipe, str) else recipe, settings)
    with assemble(loaded, print_line) as assembly:
        return plan_run(assembly, Path(out).absolute() / loaded.name, store_folder(store))


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
    """Check a recipe without loading weights or fetching anything, and say what it would use and take.

    Args:
        recipe: a file, or the same as a mapping.
        settings: key paths to values, laid over the recipe.
        memory: bytes, or text such as "8GB", that the run is to fit into; what this machine has by default.
        fit: also look for the largest student that fits, and settings for it; takes some seconds for each that is tried.
        gpu: the name of a GPU, such as "a100-80gb", that a machine elsewhere has: memory and time are estimated for it, from
            its published figures.
        out: the folder for runs: an earlier one of the same name tells how long training takes.
        store: the folder for text, rows and signals.

    Returns:
        Plain data: `name`, `arms`, `components` with their settings, `models` (shapes), `licences` (terms, and what the
        student takes under them), `mixtures` (a line on each loss that learns from several teachers at once),
        `vocabularies` (the student's beside each teacher's; null where a tokenizer is not on this machine), `forecast`
        (memory, disk, tokens, time, …), `fits`, `limits`, `remedies` and `proposal`.

    Raises:
        RecipeError: with all that is wrong, or all that this machine lacks.
        UsageError: `memory` is not a size, or the GPU is unknown.
    """
    from kdtool._estimate.check import check_recipe
    from kdtool._estimate.gpus import find_gpu
    from kdtool._estimate.machine import read_size
    from kdtool._store.shared_store import store_folder

    path = Path(recipe) if isinstance(recipe, str) else recipe
    limit = read_size(memory) if isinstance(memory, str) else memory
    return check_recipe(
        path,
        settings or {},
        limit=limit,
        fit=fit,
        gpu=None if gpu is None else find_gpu(gpu),
        out=Path(out).absolute(),
        store=store_folder(store),
        say=print_line,
    )


@translate_errors()
def report(folder: Path | str, use: str | None = None) -> Path:
    """Write the report of a finished run again and return its path.

    Args:
        folder: the run's folder.
        use: the reporter; by default the one that the run's recipe names, else the only one installed.

    Raises:
        UsageError: the folder holds no finished run, or no reporter is named.
        RecipeError: the reporter is not installed, or no longer takes the settings of the run.
    """
    from kdtool._results.files import read_results

    return report_of(read_results(Path(folder).absolute()), use)


def report_of(results: Results, use: str | None = None) -> Path:
    """Write a report of results into their folder; arguments and errors are those of `report`."""
    from kdtool._assembly.assemble import assemble
    from kdtool._contract.reporting import Reporter
    from kdtool._contract.run_info import RunInfo
    from kdtool._plugins.registry import entries_by_name
    from kdtool._recipe.model import ComponentSpec, Recipe
    from kdtool._run.context import NoTexts

    named = [record for record in results.components if record.kind == "reporter"]
    use = use or (named[0].use if named else None) or next(iter(entries_by_name("reporter")), None)
    if use is None:
        raise UsageError(
            "no reporter is installed: install a package that has one; `kdtool plugins list` then shows it"
        )
    config = next((record.config for record in named if record.use == use), {})
    spec = ComponentSpec("reporter", "reporter", "reporter", use, config, ("reporter",))
    with assemble(Recipe(results.name, (0,), (spec,), (), None, {}, {}), print_line) as assembly:
        run = RunInfo(results.name, "report", results.folder, assembly.hooks(), NoTexts())
        return run.component(spec.path, Reporter).kdtool_report(run, results)
