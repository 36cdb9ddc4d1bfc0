"""`kdtool show RUN`."""

from __future__ import annotations

import click

from kdtool._cli.compare import value_tables
from kdtool._cli.options import out_option
from kdtool._text.markdown import markdown_table


@click.command()
@click.argument("run")
@out_option
@click.option("--all", "every", is_flag=True, help="Show all measurements, the whole verdict and the notes.")
def show(run: str, out: str, every: bool) -> None:
    """Show the results of a finished RUN (name or folder): main figures with 95 % intervals, verdict, requirements, models.

    `kdtool report` writes the report for people again.
    """
    from kdtool._api import load
    from kdtool._contract.reporting import where
    from kdtool._results.exported import place_of

    results = load(run, out=out)
    head, *rows = results.table()
    tables = value_tables({results.name: results.values}) if every else [markdown_table(head, rows)]
    click.echo("\n\n".join(tables) + "\n")
    click.echo("\n".join([results.verdict, *results.notes] if every else [f"verdict: {results.outcome}"]))
    for needed in results.requirements:
        click.echo(
            f"require {needed.measurement} {needed.condition}: {'met' if needed.met else 'missed'}, {needed.text}"
        )
    for arm in (arm for arm in results.arms if arm.arm == "student"):
        click.echo(f"student, seed {arm.seed}: {results.folder / arm.path}")
        for artifact in arm.artifacts:
            click.echo(f"  exported as {artifact.format}: {place_of(artifact, results.folder)}")
    click.echo(where(results))
    left_out = len({value.measurement for value in results.values}) - len(head) + 1
    if left_out and not every:
        click.echo(f"{left_out} more measurement{'s' * (left_out > 1)}: kdtool show {run} --all")
