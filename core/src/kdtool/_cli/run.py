"""`kdtool run RECIPE` and `kdtool eval MODEL …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdtool._cli.runs import print_json, print_results
from kdtool._cli.shared import (
    json_option,
    no_sandbox_option,
    offline_option,
    out_option,
    recipe_argument,
    set_option,
    store_option,
)
from kdtool._errors import ServiceError, UsageError
from kdtool._estimate.machine import size
from kdtool._plugins.registry import output_to_stderr
from kdtool._text.terminal import count_of, print_first_line, print_line, say, width_of

if TYPE_CHECKING:
    from kdtool._run.plan import PlannedStage


@click.command()
@recipe_argument
@set_option
@out_option
@store_option
@offline_option
@no_sandbox_option
@click.option(
    "--gpus", type=click.IntRange(min=1), metavar="N", help="Start N processes by torchrun, one for each GPU."
)
@click.option("--plan", "only_plan", is_flag=True, help="Only show which stages would run or be reused, and why.")
@click.option("-v", "--verbose", is_flag=True, help="With --plan, list the reused stages, too.")
def run(
    recipe: str,
    settings: dict[str, str],
    out: str,
    store: str | None,
    offline: bool,
    no_sandbox: bool,
    gpus: int | None,
    only_plan: bool,
    verbose: bool,
) -> None:
    """Run a recipe, from data to report; again to resume it."""
    if gpus and "WORLD_SIZE" not in os.environ:
        _start_processes(gpus, only_plan)
    print_first_line("reading the recipe and its plugins …")
    from kdtool._api import plan as plan_recipe
    from kdtool._api import run as run_recipe
    from kdtool._run.ranks import rank_and_world

    if no_sandbox:
        from kdtool._assembly.trust import without_sandbox

        settings = without_sandbox(Path(recipe), settings, print_line)
    if only_plan:
        try:
            lines = _plan_lines(plan_recipe(Path(recipe), settings, out=out, store=store), verbose)
        except ServiceError as error:
            from kdtool._estimate.check import check

            lines = _lines_before_download(error, check(Path(recipe), settings, out=out, store=store))
        say("\n".join(lines))
        return
    results = run_recipe(Path(recipe), settings, out=out, store=store, offline=offline)
    if rank_and_world()[0] == 0:
        say()
        print_results(results, out)


def _start_processes(count: int, only_plan: bool) -> None:
    """Become torchrun, which starts the same command `count` times; a plan is made for as many by this process."""
    if find_spec("torch") is None:
        raise UsageError("--gpus needs torch, which is not installed; install a package with a trainer")
    if only_plan:
        os.environ["WORLD_SIZE"] = str(count)
        return
    from kdtool._contract.executor import torchrun

    command = torchrun([sys.executable, "-P", "-m", "kdtool", *sys.argv[1:]], count)
    os.execv(command[0], command)  # noqa: S606


def _lines_before_download(error: ServiceError, report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the plan of a run from the figures of `check` if a model or dataset is not on this machine yet."""
    yield f"It is not known yet which stages could be reused: {error}"
    yield from (f"↓ fetch     {one['what']}, {size(one['bytes'])}" for one in report["forecast"]["downloads"])
    yield from (f"↻ run       {title}" for title in report["stages"].values())


def _plan_lines(stages: Sequence[PlannedStage], verbose: bool) -> Iterator[str]:
    """Yield a line for each stage with its reasons, which share a line if all are the same; so do reused stages."""
    shown = [stage for stage in stages if verbose or stage.action != "reuse"]
    if reused := len(stages) - len(shown):
        yield f"✓ {count_of(reused, 'stage')} reused"
    reasons = [", ".join(stage.why) for stage in shown]
    if len(reasons) > 1 and len({*reasons}) == 1 and reasons[0]:
        yield f"{count_of(len(reasons), 'stage')} to make: {reasons[0]}"
        reasons = [""] * len(reasons)
    titles = [f"{'✓' if stage.action == 'reuse' else '↻'} {stage.action:<8}  {stage.title}" for stage in shown]
    column, widest = max(map(len, titles), default=0), max(map(len, reasons), default=0)
    if column + widest + 2 > (width_of(sys.stdout) or inf):
        column = 0
    yield from (f"{title:<{column}}  {reason}".rstrip() for title, reason in zip(titles, reasons, strict=True))


@click.command("eval")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--with", "evaluators", metavar="NAME,NAME", default="", help="Evaluators [default: the recipe's].")
@click.option("--corpus", help="The corpus plugin that gives held-out text [default: the recipe's].")
@click.option(
    "--recipe",
    type=click.Path(dir_okay=False),
    help="A recipe to take text, teacher and evaluators from [default: the recipe of the first run among the models].",
)
@set_option
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Items that each evaluator measures at most.")
@click.option("--name", help="The run's name [default: eval and the names of the models].")
@out_option
@store_option
@offline_option
@json_option
def evaluate(models: tuple[str, ...], evaluators: str, settings: dict[str, str], as_json: bool, **options: Any) -> None:
    """Measure existing models, and compare them.

    Nothing is trained. A MODEL is a model's folder, an exported file, OWNER/NAME on the Hub, or a run (its name or folder),
    whose student is measured with all its seeds. NAME=MODEL gives it a name. Teachers are measured as well, even without a
    MODEL: --set teacher.use=NAME. To leave out the recipe's: --set teacher=false. If it was interrupted, the same command
    resumes.
    """
    print_first_line("reading plugins …")
    from kdtool._evaluate import evaluate as evaluate_models

    wanted = [name.strip() for name in evaluators.split(",") if name.strip()]
    with output_to_stderr() if as_json else nullcontext():
        results = evaluate_models(models, wanted, settings, **options)
    if as_json:
        print_json(results)
        return
    say()
    print_results(results, str(options["out"]), every=True)
