"""`kdtool show RUN`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdtool._cli.compare import by_arm, difference, value_table, verdict
from kdtool._cli.options import out_option
from kdtool._cli.table import table
from kdtool._text.terminal import escape

if TYPE_CHECKING:
    from kdtool._contract.reporting import Results


@click.command()
@click.argument("run")
@out_option
@click.option("--all", "every", is_flag=True, help="Show all measurements, the whole verdict and the notes.")
def show(run: str, out: str, every: bool) -> None:
    """Show the results of a finished run.

    RUN is a name or a folder. Main figures have 95 % intervals. `kdtool report` writes the report for people again.
    """
    from kdtool._api import load
    from kdtool._contract.comparison import main_figures
    from kdtool._contract.reporting import where

    results = load(run, out=out)
    main = main_figures(results.values, results.comparisons)
    shown = [value for value in results.values if every or value.measurement in main]
    click.echo(verdict(escape(results.verdict if every else results.outcome), results.comparisons))
    click.echo("".join(f"{escape(note)}\n" for note in results.notes if every))
    click.echo(value_table(by_arm(shown)) + "\n")
    for needed in results.requirements:
        met = "✓ met" if needed.met else click.style("✗ missed", fg="red")
        click.echo(f"{met}: require {needed.measurement} {needed.condition}, {needed.text}")
    if results.arms and results.arms[0].artifacts:
        click.echo(f"{_exported_table(results)}\n")
    for arm in (arm for arm in results.arms if arm.arm == "student"):
        click.echo(f"student, seed {arm.seed}: {results.folder / arm.path}")
    click.echo(where(results))
    left_out = len({value.measurement for value in results.values}) - len({value.measurement for value in shown})
    if left_out:
        click.echo(f"{left_out} more measurement{'s' * (left_out > 1)}: kdtool show {run} --all")
    show_next_steps(results, out)


def show_next_steps(results: Results, out: str) -> None:
    """Print the installed commands that use a trained student."""
    from kdtool._plugins.registry import defaults_of

    for command in sorted(defaults_of("command")) if results.arms else ():
        click.echo(f"next: kdtool {command} {results.name if out == 'runs' else results.folder}")


def _exported_table(results: Results) -> str:
    from kdtool._estimate.machine import size

    files = results.exported_files()
    units = {value.measurement: value.unit for value in results.values}
    measured = dict.fromkeys(name for file in files for name in file.comparisons)
    rows = [
        [
            f"{file.artifact.format} {file.artifact.quantisation}".rstrip(),
            size(file.artifact.bytes),
            *(
                difference(file.comparisons[name], units[name]) if name in file.comparisons else "–"
                for name in measured
            ),
            str(results.path_of(file.artifact)),
        ]
        for file in files
    ]
    heads = (f"{name}, to the student" for name in measured)
    return table(["exported", "size", *heads, "path"], rows)
