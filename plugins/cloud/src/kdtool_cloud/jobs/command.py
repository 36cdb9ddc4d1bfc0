"""The click command `kdtool cloud`: GPU, time and cost as `kdtool.check` forecasts them, and the files of the job.

A job is a task of SkyPilot, or a script for `hf jobs uv run`, from the templates next to this file. Both mount a bucket for
store and runs, so that the same command resumes a run that was stopped.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import ceil, inf
from pathlib import Path
from typing import Any, NamedTuple

import click
import kdtool
import yaml
from kdtool._cli.shared import folder_path, set_option

GPUS: Mapping[str, Mapping[str, str]] = {
    "sky": {
        "t4": "T4", "l4": "L4", "a10": "A10", "v100": "V100-32GB", "a100-40gb": "A100", "l40s": "L40S",
        "a100-80gb": "A100-80GB", "h100": "H100", "h200": "H200",
    },
    "hf-jobs": {"t4": "t4-medium", "l4": "l4x1", "l40s": "l40sx1", "a100-80gb": "a100-large", "h200": "h200"},
}  # fmt: skip
"""Names of GPUs or machines at each service, by kdtool's names of GPUs, in the order of GPU memory."""
_COPY = {"s3": "aws s3 sync", "gs": "gcloud storage rsync --recursive", "hf": "hf buckets sync"}
_INSTALL = {"sky": "uv tool install 'skypilot[aws,gcp]'", "hf": "uv tool install huggingface_hub"}
_BUCKETS = {"sky": r"((?:s3|gs)://[a-z0-9][a-z0-9._-]+)/*", "hf-jobs": r"(?:hf://buckets/)?([\w.-]+/[\w.-]+)"}
_NO_BUCKET = {
    "sky": "cannot be mounted; expected s3://NAME or gs://NAME without a folder; name a bucket of yours, or a new one, "
    "which SkyPilot creates",
    "hf-jobs": "is not a bucket of the Hub; expected OWNER/NAME; create one with `hf buckets create OWNER/NAME`",
}
_BUCKET = "Keeps store and runs: s3://NAME or gs://NAME for sky, OWNER/NAME for hf-jobs."
_GPU = "GPU, such as t4 or a100-80gb [default: the smallest that is large enough]."
_VARIABLE = "Environment variable to send, such as HF_TOKEN; repeatable. Keys that the recipe names are sent anyway."
_yaml = partial(yaml.safe_dump, default_style='"', width=inf)


class Job(NamedTuple):
    """A recipe in a bundle.

    `bucket` is an address such as s3://you-kdtool, `gpu` the service's name of a GPU, `needs` the forecast of
    `kdtool.check`, `secrets` are names of environment variables, and `lines` the estimate in words.
    """

    name: str
    bucket: str
    gpu: str
    needs: Mapping[str, Any]
    arguments: Sequence[str]
    secrets: Sequence[str]
    lines: Sequence[str]

    def write(self, folder: Path, requirements: Sequence[str]) -> None:
        """Write the job into its bundle; `requirements` are installed besides the bundle's wheels."""
        scheme, _, bucket = self.bucket.partition("://")
        wheels = sorted(path.name for path in (folder / "wheels").glob("*.whl"))
        files = [f"{name.partition('-')[0]} @ file:///bundle/wheels/{name}" for name in wheels]
        template = Path(__file__).with_name("hf_jobs.txt" if scheme == "hf" else "sky.txt").read_text(encoding="utf-8")
        text = template.format(
            head="\n".join(f"# {' '.join(line.split())}" for line in ("Written by kdtool cloud.", *self.lines)),
            name=_yaml(self.name).strip(),
            gpu=self.gpu,
            memory=max(8, ceil(self.needs["memory"]["peak"] / 1e9)),
            disk=60 + ceil(self.needs["disk_bytes"] / 1e9),  # GB; 60 for the system, Python and torch with CUDA
            bucket=_yaml(bucket).strip(),
            store="gcs" if scheme == "gs" else scheme,
            secrets=yaml.safe_dump({"secrets": dict.fromkeys(self.secrets)}) if self.secrets else "",
            requirements=shlex.join(requirements),
            run=_yaml(f"~/kdtool-env/bin/python -m kdtool {shlex.join(self.arguments)}\n").strip(),
            dependencies=json.dumps([*requirements, *files]),  # TOML reads it, too
            arguments=repr([*self.arguments]),
        )
        kdtool.write_beside(folder / self.start()[-1], text)

    def start(self) -> list[str]:
        """Return the command that starts the job from the bundle, or resumes the run; it ends with the job's file."""
        if not self.bucket.startswith("hf:"):
            secrets = (f"--secret={name}" for name in self.secrets)
            return ["sky", "jobs", "launch", "--name", self.name, *secrets, "task.yaml"]
        # The machine is given back after this time; the service's own limit is 30 minutes.
        hours = 2 + ceil((2 * self.needs["seconds"] + self.needs["waiting_seconds"]) / 3600)
        machine = f"--python 3.12 --volume .:/bundle --volume {self.bucket}:/kdtool"
        options = ["--name", self.name, "--flavor", self.gpu, "--timeout", f"{hours}h", *machine.split()]
        return ["hf", "jobs", "uv", "run", *options, *(f"--secrets={name}" for name in self.secrets), "job.py"]


@click.command("cloud")
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--on", "service", required=True, type=click.Choice([*GPUS]), help="Service that has the GPU.")
@click.option("--bucket", required=True, metavar="BUCKET", help=_BUCKET)
@click.option("--gpu", metavar="NAME", help=_GPU)
@click.option("--price", type=click.FloatRange(min=0), metavar="DOLLARS", help="The machine's price per hour.")
@set_option
@click.option("--secret", "secrets", multiple=True, metavar="NAME", help=_VARIABLE)
@click.option("--no-sandbox", is_flag=True, help="Leave out evaluators that run generated programs.")
@click.option("--to", type=folder_path, metavar="FOLDER", help="Folder for the files [default: cloud/NAME].")
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
    to: str | None,
    launch: bool,
) -> None:
    """Run a recipe on a rented GPU, by SkyPilot or HF Jobs.

    Writes a folder with the recipe, wheels of the packages it needs, and the job, then prints the command that starts it.
    Nothing leaves this machine without --run. The same command resumes a run that was stopped.

    \b
    Example:  kdtool cloud my.yaml --on sky --bucket s3://you
    """  # noqa: D301 - click reads backspaces
    from kdtool_cloud.jobs.bundle import write_bundle

    if not all(re.fullmatch(r"[A-Za-z_]\w*", name) for name in secrets):
        message = "expected names of environment variables, without values: set these in the environment"
        raise click.BadParameter(message, param_hint="'--secret'")
    for key, value in {"RECIPE": recipe.name, **{f"--set {key}": value for key, value in settings.items()}}.items():
        if not f"{key}{value}".isprintable():  # also half a surrogate pair, which no file can hold
            raise kdtool.UsageError(f"{key!r}: {value!r} has a line break or a control character; rename or escape it")
    mountable = re.fullmatch(_BUCKETS[service], bucket)
    if mountable is None:
        raise kdtool.UsageError(f"--bucket: {bucket!r} {_NO_BUCKET[service]}")
    address = mountable[1] if service == "sky" else f"hf://buckets/{mountable[1]}"
    with kdtool.waiting("reading the recipe and its plugins, and estimating the run …"):
        gpu, report = forecast(recipe, settings, gpu, [*GPUS[service]])
    name, ahead, keys = report["name"], report["forecast"], report["variables"].values()
    lines = list(estimate(gpu, ahead, price))
    arguments = ["run", f"./{recipe.name}", "--out", "/kdtool/runs", "--store", "/kdtool/store"]
    arguments += ["--no-sandbox"] * no_sandbox
    arguments += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    job = Job(name, address, GPUS[service][gpu], ahead, arguments, [*dict.fromkeys([*keys, *secrets])], lines)
    folder = Path(to or f"cloud/{name}")
    with kdtool.waiting(f"writing {folder} …"):
        job.write(folder, write_bundle(recipe, report, folder))
    tool, *words = job.start()
    start = f"start\n    cd {shlex.quote(str(folder))} && {shlex.join([tool, *words])}"
    fetch = f"fetch\n    {_COPY[address.partition('://')[0]]} {shlex.quote(address + '/runs')} runs"
    kdtool.say("\n".join([*lines, f"files   {folder}", start, fetch]))
    if launch:
        program = shutil.which(tool)
        if program is None:
            raise kdtool.UsageError(
                f"--run: {tool} is not installed; expected it on PATH; install it with `{_INSTALL[tool]}` and log in, or "
                "start the job elsewhere with the command above"
            )
        raise click.exceptions.Exit(subprocess.call([program, *words], cwd=folder))  # noqa: S603 - our own command


def forecast(
    recipe: Path, settings: Mapping[str, str], gpu: str | None, offered: Sequence[str]
) -> tuple[str, Mapping[str, Any]]:
    """Return a GPU, and the report of `kdtool.check` for it; by default the first of `offered` that is large enough."""
    name = offered[-1] if gpu is None else gpu.lower()
    if name not in offered:
        raise kdtool.UsageError(f"--gpu: {gpu!r} is not offered with --on; choose one of {', '.join(offered)}")
    report: Mapping[str, Any] = kdtool.check(recipe, settings, gpu=name)
    needed = report["forecast"]["device_memory"]["peak"]
    for smaller in offered[:-1] if gpu is None else ():
        if kdtool.Gpu.find(smaller).memory >= needed:  # else a check takes long, because it looks for settings that fit
            cheaper: Mapping[str, Any] = kdtool.check(recipe, settings, gpu=smaller)
            if cheaper["fits"]["gpu"]:
                return smaller, cheaper
    if report["fits"]["gpu"]:
        return name, report
    larger = "" if name == offered[-1] else "choose a larger one, or "
    raise kdtool.MemoryExceededError(
        f"--gpu: the run needs {needed / 1e9:.1f} GB of GPU memory; {name} has {report['limits']['gpu'] / 1e9:.0f} GB; "
        f"{larger}run `kdtool check {recipe} --gpu {name}` for settings that need less"
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
    if hours := ahead["waiting_seconds"] / 3600:
        cost = "" if price is None else f" ({_dollars(hours * price)})"
        yield f"wait    up to {hours:.0f} h for each batch of answers, while the machine is rented and idle{cost}"
    if ahead["picodollars"]:
        yield f"        {_dollars(ahead['picodollars'] * 1e-12)} for the teacher's service"


def _dollars(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.01 else "less than $0.01"
