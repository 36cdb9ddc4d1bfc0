"""`kdtool show RUN`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdtool._cli.compare import in_figures, value_tables
from kdtool._cli.options import out_option
from kdtool._text.markdown import markdown_table

if TYPE_CHECKING:
    from kdtool._contract.comparison import Comparison
    from kdtool._contract.reporting import Results


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
    if results.arms and results.arms[0].artifacts:
        click.echo(f"\nexported files, with differences from the student\n\n{_exported_table(results)}\n")
    click.echo(where(results))
    left_out = len({value.measurement for value in results.values}) - len(head) + 1
    if left_out and not every:
        click.echo(f"{left_out} more measurement{'s' * (left_out > 1)}: kdtool show {run} --all")


def _exported_table(results: Results) -> str:
    from kdtool._estimate.machine import size

    files = results.exported_files()
    measured = dict.fromkeys(name for file in files for name in file.comparisons)
    rows = [
        [
            f"{file.artifact.format} {file.artifact.quantisation}".rstrip(),
            size(file.artifact.bytes),
            *(_difference(file.comparisons.get(name)) for name in measured),
            str(results.path_of(file.artifact)),
        ]
        for file in files
    ]
    return markdown_table(["type", "size", *measured, "path"], rows)


def _difference(found: Comparison | None) -> str:
    if found is None:
        return "–"
    return "{} ({} to {})".format(*in_figures(found))
