"""The click commands of `kdtool data`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click
import kdtool

from kdtool_command_data._generations import export, plan, quarantine, recover, status
from kdtool_command_data._mending import mend
from kdtool_command_data._options import set_option, store_option

__all__ = ["data"]


@click.group()
def data() -> None:
    """Inspect and export data stored by runs."""


for _subcommand in (plan, status, export, recover, quarantine, mend):
    data.add_command(_subcommand)


@data.group()
def signals() -> None:
    """Inspect the teacher signals that a cache recorded."""


@signals.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@set_option
@store_option
@click.option("--signals", "name", help="Name of the signals if a recipe records several, such as signals/teacher.")
@click.option("--row", type=click.IntRange(min=0), default=0, show_default=True, help="Index of the row to show.")
@click.option(
    "--positions", type=click.IntRange(min=1), default=8, show_default=True, help="Number of its positions to show."
)
@click.option("--verify", is_flag=True, help="Check the hash of every file, not only its size.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(
    recipe: Path,
    settings: Mapping[str, str],
    store: Path | None,
    name: str | None,
    row: int,
    positions: int,
    verify: bool,
    as_json: bool,
) -> None:
    """Show the recorded signals of RECIPE, or of a run's folder: content, completeness and one row.

    \b
    Example:  kdtool data signals inspect recipe.yaml --row 3 --verify
    """  # noqa: D301 - click reads backspaces
    from kdtool_command_data._find import find_signals
    from kdtool_command_data._lines import recording_lines, sample_lines
    from kdtool_command_data._recording import read_recording
    from kdtool_command_data._sample import take_sample

    stage, recorded = find_signals(recipe, settings, store, name)
    with recorded.open() as (rows, tokenizer, source):
        recording = read_recording(stage, recorded, rows, verify=verify)
        recording.require_row(row)
        if not as_json:
            click.echo("\n".join(recording_lines(recording)))
        good = not recording.damaged and recording.recorded != 0
        sample = take_sample(rows[row], row, positions, tokenizer, source) if good else None
    if as_json:
        plain = {**asdict(recording), "sample": None if sample is None else asdict(sample)}
        click.echo(json.dumps(plain, indent=1))
    elif good:
        click.echo("\n".join(["", *sample_lines(sample)]))
    if recording.damaged:
        files = "; ".join(f"{damage.file} {damage.problem}" for damage in recording.damaged)
        remedy = f"delete the folder {recording.folder} and run again to record the signals"
        raise kdtool.StorageError(f"recorded signals are damaged: {files}; {remedy}")
