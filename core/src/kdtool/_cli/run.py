"""`kdtool run RECIPE`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdtool._cli.compare import verdict
from kdtool._cli.options import (
    no_sandbox_option,
    offline_option,
    out_option,
    recipe_argument,
    set_option,
    store_option,
)
from kdtool._cli.show import show_next_steps
from kdtool._errors import ServiceError, UsageError
from kdtool._estimate.machine import size
from kdtool._text.terminal import escape, print_first_line, print_line

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
    from kdtool._contract.reporting import where
    from kdtool._run.distributed import rank_and_world

    if no_sandbox:
        from kdtool._assembly.without_sandbox import without_sandbox

        settings = without_sandbox(Path(recipe), settings, print_line)
    if only_plan:
        try:
            lines = _plan_lines(plan_recipe(Path(recipe), settings, out=out, store=store), verbose)
        except ServiceError as error:
            from kdtool._estimate.check import check

            lines = _lines_before_download(error, check(Path(recipe), settings, out=out, store=store))
        click.echo("\n".join(lines))
        return
    results = run_recipe(Path(recipe), settings, out=out, store=store, offline=offline)
    if rank_and_world()[0] == 0:
        click.echo(f"\n{verdict(escape(results.verdict), results.comparisons)}\n\n{where(results)}")
        for artifact in results.arms[0].artifacts:
            click.echo(f"model: {results.path_of(artifact)}")
        show_next_steps(results, out)


def _start_processes(count: int, only_plan: bool) -> None:
    """Become torchrun, which starts the same command `count` times; a plan is made for as many by this process."""
    if find_spec("torch") is None:
        raise UsageError("--gpus needs torch, which is not installed; install a package with a trainer")
    if only_plan:
        os.environ["WORLD_SIZE"] = str(count)
        return
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "kdtool")
    os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv[1:]])  # noqa: S606


def _lines_before_download(error: ServiceError, report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the plan of a run from the figures of `check` if a model or dataset is not on this machine yet."""
    yield f"It is not known yet which stages could be reused: {error}"
    yield from (f"↓ fetch     {one['what']}, {size(one['bytes'])}" for one in report["forecast"]["downloads"])
    yield from (f"↻ run       {title}" for title in report["stages"].values())


def _plan_lines(stages: Sequence[PlannedStage], verbose: bool) -> Iterator[str]:
    """Yield a line for each stage with its reasons; the reused ones share a line unless `verbose`."""
    shown = [stage for stage in stages if verbose or stage.action != "reuse"]
    if reused := len(stages) - len(shown):
        yield f"✓ {reused} stage{'s' * (reused > 1)} reused"
    width = max((len(stage.title) for stage in shown), default=0)
    for stage in shown:
        sign = "✓" if stage.action == "reuse" else "↻"
        yield f"{sign} {stage.action:<8}  {stage.title:<{width}}  {', '.join(stage.why)}".rstrip()
