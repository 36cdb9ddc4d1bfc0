"""The click command `kdtool cloud`: GPU, time and cost as `kdtool.check` forecasts them, and the files of the job."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import kdtool

_INSTALL = {"sky": "uv tool install 'skypilot[aws,gcp]'", "hf": "uv tool install huggingface_hub"}


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for key, sign, _text in pairs:
        if not sign or not key.strip():
            raise click.BadParameter(f"{key!r} is not of the form KEY=VALUE")
    return {key.strip(): text for key, _, text in pairs}


def _names(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(re.fullmatch(r"[A-Za-z_]\w*", value) for value in values):
        raise click.BadParameter(
            "expected names of environment variables, without values: set these in the environment"
        )
    return values


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
    "--secret", "secrets", multiple=True, metavar="NAME", callback=_names,
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
    from kdtool_cloud.jobs.bundle import strings, write_bundle
    from kdtool_cloud.jobs.services import GPUS, Job, address_of

    address = address_of(bucket, service)
    gpu, report = forecast(recipe, settings, gpu, [*GPUS[service]])
    name, ahead, components = report["name"], report["forecast"], report["components"]
    lines = list(estimate(gpu, ahead, price))
    words = [text for part in components for text in strings(part["config"])]
    keys = [text for text in words if re.fullmatch(r"[A-Za-z0-9_]+_API_KEY", text)]
    arguments = ["run", recipe.name, "--out", "/kdtool/runs", "--store", "/kdtool/store"]
    arguments += ["--no-sandbox"] * no_sandbox
    arguments += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    needed = tuple(dict.fromkeys([*keys, *secrets]))
    job = Job(name, address, GPUS[service][gpu], ahead, arguments, needed, lines)
    folder = to or Path("cloud") / name
    job.write(folder, write_bundle(recipe, components, folder))
    start = f"start   cd {shlex.quote(str(folder))} && {shlex.join(job.start())}"
    click.echo("\n".join([*lines, f"files   {folder}", start, f"fetch   {shlex.join(job.fetch())}"]))
    if launch:
        _launch(job.start(), folder)


def forecast(
    recipe: Path, settings: Mapping[str, str], gpu: str | None, offered: Sequence[str]
) -> tuple[str, Mapping[str, Any]]:
    """Return a GPU, and the report of `kdtool.check` for it; by default the first of `offered` that is large enough."""
    if gpu is not None and gpu.lower() not in offered:
        raise kdtool.UsageError(f"--gpu: {gpu!r} is not offered with --on; choose one of {', '.join(offered)}")
    names, largest = [gpu.lower()] if gpu is not None else [*offered], offered[-1]
    if len(names) > 1:  # a check of a GPU that is too small takes long, because it looks for settings that fit
        needed = kdtool.check(recipe, settings, gpu=largest)["forecast"]["device_memory"]["peak"]
        names = [name for name in names if kdtool.Gpu.find(name).memory >= needed] or [largest]
    for name in names:
        report: Mapping[str, Any] = kdtool.check(recipe, settings, gpu=name)
        if report["fits"]["gpu"]:
            return name, report
    needed, there = report["forecast"]["device_memory"]["peak"], report["limits"]["gpu"]
    remedy = f"run `kdtool check {recipe} --gpu {name}` for settings that need less"
    raise kdtool.MemoryExceededError(
        f"--gpu: the run needs {needed / 1e9:.1f} GB of GPU memory; {name} has {there / 1e9:.0f} GB; "
        f"{remedy if name == largest else f'choose a larger one, or {remedy}'}"
    )


def estimate(gpu: str, ahead: Mapping[str, Any], price: float | None) -> Iterator[str]:
    """Yield the forecast of `kdtool.check` in words; `price` is that of the machine, in dollars per hour."""
    seconds, peak = ahead["seconds"], ahead["device_memory"]["peak"]
    yield f"GPU     {gpu}: {peak / 1e9:.1f} GB of its memory needed"
    yield f"memory  {ahead['memory']['peak'] / 1e9:.1f} GB; disk {ahead['disk_bytes'] / 1e9:.1f} GB"
    if seconds:
        time = f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"
        yield f"time    {time} of training ({ahead['speed']}); set-up and measuring come on top"
    else:
        yield "time    unknown: check cannot forecast this training"
    if price is None:
        yield "cost    unknown: give the machine's price per hour with --price"
    else:
        cost = f"{_dollars(seconds / 3600 * price)} for training" if seconds else "unknown time"
        yield f"cost    {cost} at ${price:.2f} per hour"
    if ahead["picodollars"]:
        yield f"        {_dollars(ahead['picodollars'] * 1e-12)} for the teacher's service"


def _dollars(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.01 else "less than $0.01"


def _launch(command: list[str], folder: Path) -> None:
    tool = shutil.which(command[0])
    if tool is None:
        raise kdtool.UsageError(
            f"--run: {command[0]} is not installed; expected it on PATH; install it with `{_INSTALL[command[0]]}` and log "
            "in, or start the job elsewhere with the command above"
        )
    raise click.exceptions.Exit(subprocess.call([tool, *command[1:]], cwd=folder))  # noqa: S603 - our own command
