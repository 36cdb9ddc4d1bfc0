"""The click command `kdtool cloud`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import click
import kdtool

_INSTALL = {"sky": "uv tool install 'skypilot[aws,gcp]'", "hf": "uv tool install huggingface_hub"}


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for key, sign, _text in pairs:
        if not sign or not key.strip():
            raise click.BadParameter(f"{key!r} is not of the form KEY=VALUE")
    return {key.strip(): text for key, _, text in pairs}


@click.command("cloud")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--on", "service", required=True, type=click.Choice(["sky", "hf-jobs"]), help="Service that has the GPU.")
@click.option(
    "--bucket", required=True, metavar="BUCKET",
    help="Keeps store and runs: s3://NAME or gs://NAME for sky, OWNER/NAME for hf-jobs.",
)  # fmt: skip
@click.option(
    "--gpu", metavar="NAME", help="GPU, such as t4 or a100-80gb [default: the smallest that is large enough]."
)
@click.option("--price", type=click.FloatRange(min=0), metavar="DOLLARS", help="The machine's price per hour.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", callback=_pairs,
    help="Change a key of the recipe, as in kdtool run.",
)  # fmt: skip
@click.option(
    "--secret", "secrets", multiple=True, metavar="NAME",
    help="Environment variable to send, such as HF_TOKEN; repeatable. Keys that the recipe names are sent anyway.",
)  # fmt: skip
@click.option("--no-sandbox", is_flag=True, help="Leave out evaluators that run generated programs.")
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Folder for the files [default: cloud/NAME].",
)  # fmt: skip
@click.option("--run", "launch", is_flag=True, help="Start the job; without it, files are only written.")
def cloud(
    recipe: Path,
    service: str,
    bucket: str,
    gpu: str | None,
    price: float | None,
    settings: dict[str, str],
    secrets: tuple[str, ...],
    no_sandbox: bool,
    to: Path | None,
    launch: bool,
) -> None:
    """Run a recipe on a rented GPU, by SkyPilot or Hugging Face Jobs.

    Writes a folder with the recipe, wheels of the packages it needs, and the job, then prints the command that starts it.
    Nothing leaves this machine without --run. The same command resumes a run that was stopped.

    \b
    Example:  kdtool cloud recipe.yaml --on sky --bucket s3://you-kdtool --price 0.35
    """  # noqa: D301 - click reads backspaces
    from kdtool_cloud.jobs import hf_jobs, sky
    from kdtool_cloud.jobs.bundle import Job, write_bundle
    from kdtool_cloud.jobs.forecast import forecast

    writer = sky if service == "sky" else hf_jobs
    needs = forecast(recipe, settings, gpu, [*writer.GPUS])
    names = tuple(dict.fromkeys([*needs.keys, *secrets]))
    folder = to or Path("cloud") / needs.name
    job = Job(needs.name, folder, recipe.name, bucket, settings, names, sandbox=not no_sandbox)
    command, fetch, lines = writer.launch_command(job, needs), writer.fetch_command(job), list(needs.lines(price))
    writer.write_job(job, needs, write_bundle(recipe, needs, folder), lines)
    for line in lines:
        click.echo(line)
    click.echo(f"files   {folder}")
    click.echo(f"start   cd {shlex.quote(str(folder))} && {shlex.join(command)}")
    click.echo(f"fetch   {shlex.join(fetch)}")
    if launch:
        _launch(command, folder)


def _launch(command: list[str], folder: Path) -> None:
    tool = shutil.which(command[0])
    if tool is None:
        raise kdtool.UsageError(
            f"--run: {command[0]} is not installed; expected it on PATH; install it with `{_INSTALL[command[0]]}` and log "
            "in, or start the job elsewhere with the command above"
        )
    raise click.exceptions.Exit(subprocess.call([tool, *command[1:]], cwd=folder))  # noqa: S603 - our own command
