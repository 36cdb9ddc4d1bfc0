"""`kdtool run RECIPE`."""

from __future__ import annotations

from pathlib import Path

import click

from kdtool._cli.options import offline_option, out_option, recipe_argument, set_option, store_option
from kdtool._text.terminal import print_first_line, print_line


@click.command()
@recipe_argument
@set_option
@out_option
@store_option
@offline_option
@click.option("--verify", is_flag=True, help="Read every stored file that is reused, and stop at one that has changed.")
@click.option("--plan", "only_plan", is_flag=True, help="Only show which stages would run or be reused, and why.")
@click.option("--trace-hooks", is_flag=True, help="Print every hook call to standard error.")
def run(
    recipe: str,
    settings: dict[str, str],
    out: str,
    store: str | None,
    offline: bool,
    verify: bool,
    only_plan: bool,
    trace_hooks: bool,
) -> None:
    """Run a recipe, from data to report; a second call resumes where the first stopped."""
    print_first_line("reading the recipe and its plugins …")
    from kdtool._api import plan as plan_recipe
    from kdtool._api import run as run_recipe
    from kdtool._contract.reporting import where
    from kdtool._plugins.registry import defaults_of
    from kdtool._run.distributed import rank_and_world

    if only_plan:
        stages = plan_recipe(Path(recipe), settings, out=out, store=store)
        width = max(len(stage.title) for stage in stages)
        for stage in stages:
            click.echo(f"{stage.action:<8}  {stage.title:<{width}}  {', '.join(stage.why)}".rstrip())
        return
    trace = print_line if trace_hooks else None
    results = run_recipe(Path(recipe), settings, out=out, store=store, offline=offline, verify=verify, trace=trace)
    if rank_and_world()[0] == 0:
        click.echo(f"\n{results.verdict}\n\n{where(results)}")
        for artifact in results.arms[0].artifacts:
            click.echo(f"model: {results.path_of(artifact)}")
        for command in sorted(defaults_of("command")):
            click.echo(f"use it: kdtool {command} {results.name if out == 'runs' else results.folder}")
