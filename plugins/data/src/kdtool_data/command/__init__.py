"""The click commands of `kdtool data`, which inspects and exports data stored by runs.

No command changes what runs stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import kdtool
from kdtool._cli.shared import json_option, set_option, store_option

if TYPE_CHECKING:
    from kdtool_data.command.lookup import FoundText, Generated


__all__ = ["data"]


def _of_text(function: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and the options that find a text, and pass that text on."""

    @wraps(function)
    def call(recipe: Path, settings: Mapping[str, str], store: str | None, name: str | None, **options: Any) -> None:
        from kdtool_data.command.lookup import find_text

        with kdtool.waiting("reading the recipe and its text …"):
            text = find_text(recipe, settings, store, name)
        function(text, **options)

    made: Callable[..., None] = call
    for decorate in (
        click.option("--text", "name", help="Name of the text if phases have their own, such as text/warm-up."),
        store_option,
        set_option,
        click.argument("recipe", type=click.Path(exists=True, path_type=Path)),
    ):
        made = decorate(made)
    return made


@click.command()
@_of_text
@click.option("--cells", is_flag=True, help="Show each cell of the quota.")
@click.option("--unknown", is_flag=True, help="List requests that were sent and have no answer instead.")
@click.option(
    "--ledger",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file with paid answers, if the teacher's setting `ledger` names one.",
)
@json_option
def status(text: FoundText, cells: bool, unknown: bool, ledger: Path | None, as_json: bool) -> None:
    """Show how far the generation of RECIPE is. Another process may run it meanwhile.

    \b
    Example:  kdtool data status recipe.yaml --cells
              kdtool data status recipe.yaml --unknown
    """  # noqa: D301 - click reads backspaces
    from kdtool_measuring import read_summary

    from kdtool_data.command.progress import status_lines, unanswered_counts, unanswered_lines, unanswered_records

    ledger = ledger or text.answers
    attempts = read_summary(ledger).unanswered if ledger.exists() else ()
    if unknown:
        kdtool.say(
            json.dumps(unanswered_records(attempts), indent=1) if as_json else "\n".join(unanswered_lines(attempts))
        )
        return
    for generation in _generations_of(text):
        if as_json:
            click.echo(json.dumps({**generation.status, "unanswered": unanswered_records(attempts)}))
        else:
            counts = [f"  unknown   {line} (--unknown lists them)" for line in unanswered_counts(attempts)]
            kdtool.say("\n".join([*status_lines(generation, cells=cells), *counts]))


@click.command()
@_of_text
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "parquet", "dataset"]), default="jsonl", show_default=True,
    help="JSON Lines, Parquet, or a folder with a data card that datasets.load_dataset opens.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace what is there.")
def export(text: FoundText, target: Path, form: str, force: bool) -> None:
    """Write the text of RECIPE to TARGET. That is a file, or a folder for several splits.

    \b
    Example:  kdtool data export recipe.yaml rows.jsonl
              kdtool data export runs/my rows --format dataset
    """  # noqa: D301 - click reads backspaces
    from kdtool_data.command.formats import export as write

    count = write(text, target, form, force=force)
    kdtool.say(f"{target} has {kdtool.count_of(count, 'example')}")


@click.command()
@_of_text
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
def recover(text: FoundText, target: Path) -> None:
    """Write rows of an unfinished generation. Those accepted so far become JSON Lines in TARGET.

    \b
    Example:  kdtool data recover recipe.yaml so-far.jsonl
    """  # noqa: D301 - click reads backspaces
    from kdtool_data.command.formats import write_lines, writing
    from kdtool_data.command.lookup import record_of

    if text.is_complete:
        recipe = click.get_current_context().params["recipe"]
        raise kdtool.UsageError(f"the text of {recipe} is complete; write it with kdtool data export")
    rows = (record_of(line) for generation in text.generations() for line in generation.lines("rows.jsonl"))
    with writing(target) as made:
        count = write_lines(rows, made)
    kdtool.say(f"{target} has {kdtool.count_of(count, 'row')}; kdtool run continues the generation")


@click.command()
@_of_text
@click.option("--reason", help="Only rejections whose reason contains this.")
@click.option(
    "--samples", type=click.IntRange(min=0), default=1, show_default=True, help="Samples of each reason to show."
)
@click.option("--json", "as_json", is_flag=True, help="Print the samples as JSON Lines.")
def quarantine(text: FoundText, reason: str | None, samples: int, as_json: bool) -> None:
    """Show rejected candidates by reason. Each reason has samples.

    \b
    Example:  kdtool data quarantine recipe.yaml --samples 3
    """  # noqa: D301 - click reads backspaces
    from kdtool_data.command.progress import rejection_lines

    for generation in _generations_of(text):
        rejected = [line for line in generation.lines("rejected.jsonl") if not reason or reason in line["reason"]]
        lines = map(json.dumps, rejected) if as_json else rejection_lines(rejected, generation, samples)
        kdtool.say("\n".join(lines))


def _generations_of(text: FoundText) -> list[Generated]:
    generations = text.generations()
    if not generations:
        raise kdtool.UsageError(
            f"{text.folder} has no generated rows; expected a recipe with a corpus such as instruct"
        )
    return generations


@click.group()
def data() -> None:
    """Inspect and export data stored by runs."""


for _subcommand in (status, export, recover, quarantine):
    data.add_command(_subcommand)


@data.group()
def signals() -> None:
    """Inspect the recorded teacher signals."""


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
@json_option
def inspect(
    recipe: Path,
    settings: Mapping[str, str],
    store: str | None,
    name: str | None,
    row: int,
    positions: int,
    verify: bool,
    as_json: bool,
) -> None:
    """Show the recorded signals of RECIPE, or of a run's folder: content, completeness and one row.

    \b
    Example:  kdtool data signals inspect recipe.yaml --row 3
    """  # noqa: D301 - click reads backspaces
    from kdtool_data.command.lookup import find_signals
    from kdtool_data.command.recorded import read_recording, recording_lines, sample_lines, take_sample

    stage, signals_of_stage = find_signals(recipe, settings, store, name)
    with signals_of_stage.open() as (rows, tokenizer, source):
        recording = read_recording(stage, signals_of_stage, rows, verify=verify)
        recorded = recording["recorded"] or len(rows)
        if row >= recorded:
            problem = "not recorded yet" if row < len(rows) else "out of range"
            raise kdtool.UsageError(f"--row {row} is {problem}; choose from 0 to {recorded - 1}")
        if not as_json:
            kdtool.say("\n".join(recording_lines(recording)))
        good = not recording["damaged"] and recording["recorded"] != 0
        sample = take_sample(rows[row], row, positions, tokenizer, source) if good else None
    if as_json:
        click.echo(json.dumps({**recording, "sample": sample}, indent=1))
    elif good:
        kdtool.say("\n".join(["", *sample_lines(sample)]))
    if recording["damaged"]:
        files = "; ".join(f"{damage['file']} {damage['problem']}" for damage in recording["damaged"])
        remedy = f"delete the folder {recording['folder']} and run again to record the signals"
        raise kdtool.StorageError(f"recorded signals are damaged: {files}; {remedy}")
