"""A script for `hf jobs uv run`, with a bucket of the Hub for store and runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from math import ceil

import kdtool

from kdtool_cloud.jobs.bundle import MOUNT, WHEELS, Job
from kdtool_cloud.jobs.forecast import Forecast

GPUS = {"t4": "t4-medium", "l4": "l4x1", "l40s": "l40sx1", "a100-80gb": "a100-large", "h200": "h200"}
"""Machines of Hugging Face Jobs, by kdtool's names of their GPUs, in the order of GPU memory."""
_BUNDLE = "/bundle"
_FILE = "job.py"
_SCRIPT = """\
# /// script
# requires-python = ">=3.11"
# dependencies = {dependencies}
# ///
{head}
import subprocess
import sys

ARGUMENTS = {arguments}

sys.exit(subprocess.call([sys.executable, "-m", "kdtool", *ARGUMENTS], cwd="{bundle}"))
"""


def write_job(job: Job, _: Forecast, requirements: Sequence[str], lines: Iterable[str]) -> None:
    """Write `job.py` into the bundle; `lines` are the estimate in words, for its head.

    Raises:
        UsageError: the bucket is not of the form OWNER/NAME.
    """
    _bucket(job)
    wheels = sorted((job.folder / WHEELS).glob("*.whl"))
    files = [f"{wheel.name.partition('-')[0]} @ file://{_BUNDLE}/{WHEELS}/{wheel.name}" for wheel in wheels]
    text = _SCRIPT.format(
        dependencies=json.dumps([*requirements, *files]),
        head="".join(f"# {line}\n" for line in [f"Written by kdtool cloud for {job.recipe}.", *lines]),
        arguments=json.dumps(job.run_arguments(), indent=4),
        bundle=_BUNDLE,
    )
    (job.folder / _FILE).write_text(text, encoding="utf-8")


def launch_command(job: Job, needs: Forecast) -> list[str]:
    """Return the command that starts the job from the bundle, or resumes the run.

    The machine is given back after twice the forecast time and two hours: the service's own limit is 30 minutes.
    """
    hours = 2 + ceil(2 * needs.seconds / 3600)
    secrets = [word for name in job.secrets for word in ("--secrets", name)]
    volumes = ["--volume", f".:{_BUNDLE}", "--volume", f"hf://buckets/{_bucket(job)}:{MOUNT}"]
    command = ["hf", "jobs", "uv", "run", "--name", job.name, "--flavor", GPUS[needs.gpu], "--timeout", f"{hours}h"]
    return [*command, "--python", "3.12", *volumes, *secrets, _FILE]


def fetch_command(job: Job) -> list[str]:
    """Return the command that copies runs from the bucket into `runs`."""
    return ["hf", "buckets", "sync", f"hf://buckets/{_bucket(job)}/runs", "runs"]


def _bucket(job: Job) -> str:
    name = job.bucket.removeprefix("hf://buckets/")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise kdtool.UsageError(
            f"--bucket: {job.bucket!r} is not a bucket of the Hub; expected OWNER/NAME; create one with "
            "`hf buckets create OWNER/NAME`"
        )
    return name
