"""The job of each service, from the templates next to this file: a task of SkyPilot, or a script for `hf jobs uv run`.

Both mount a bucket for store and runs, so that the same command resumes a run that was stopped.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import kdtool

GPUS: Mapping[str, Mapping[str, str]] = {
    "sky": {
        "t4": "T4", "l4": "L4", "a10": "A10", "v100": "V100-32GB", "a100-40gb": "A100", "l40s": "L40S",
        "a100-80gb": "A100-80GB", "h100": "H100", "h200": "H200",
    },
    "hf-jobs": {"t4": "t4-medium", "l4": "l4x1", "l40s": "l40sx1", "a100-80gb": "a100-large", "h200": "h200"},
}  # fmt: skip
"""Names of GPUs or machines at each service, by kdtool's names of GPUs, in the order of GPU memory."""
_COPY = {"s3": "aws s3 sync", "gs": "gcloud storage rsync --recursive", "hf": "hf buckets sync"}
_SYSTEM_DISK = 60
"""GB for the system, Python and torch with CUDA."""


class Job(NamedTuple):
    """A recipe in a bundle.

    `bucket` is an address of `address_of`, `gpu` the service's name of a GPU, and `needs` the forecast of `kdtool.check`.
    `arguments` are those of `kdtool`, `secrets` names of environment variables, and `lines` the estimate in words.
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
            head="\n".join(f"# {line}" for line in ("Written by kdtool cloud.", *self.lines)),
            name=_json(self.name),
            gpu=self.gpu,
            memory=max(8, ceil(self.needs["memory"]["peak"] / 1e9)),
            disk=_SYSTEM_DISK + ceil(self.needs["disk_bytes"] / 1e9),
            bucket=bucket,
            store="gcs" if scheme == "gs" else scheme,
            secrets=f"secrets: {_json(dict.fromkeys(self.secrets))}\n" if self.secrets else "",
            requirements=shlex.join(requirements),
            run=_json(f"~/kdtool-env/bin/python -m kdtool {shlex.join(self.arguments)}\n"),
            dependencies=_json([*requirements, *files]),
            arguments=self.arguments,
        )
        (folder / self.start()[-1]).write_text(text, encoding="utf-8")

    def start(self) -> list[str]:
        """Return the command that starts the job from the bundle, or resumes the run; it ends with the job's file."""
        if not self.bucket.startswith("hf:"):
            secrets = [word for name in self.secrets for word in ("--secret", name)]
            return ["sky", "jobs", "launch", "--name", self.name, *secrets, "task.yaml"]
        # The machine is given back after this time; the service's own limit is 30 minutes.
        hours = 2 + ceil(2 * self.needs["seconds"] / 3600)
        options = (
            f"--flavor {self.gpu} --timeout {hours}h --python 3.12 --volume .:/bundle --volume {self.bucket}:/kdtool"
        )
        secrets = [word for name in self.secrets for word in ("--secrets", name)]
        return ["hf", "jobs", "uv", "run", "--name", self.name, *options.split(), *secrets, "job.py"]

    def fetch(self) -> list[str]:
        """Return the command that copies runs from the bucket into `runs`."""
        return [*_COPY[self.bucket.partition("://")[0]].split(), f"{self.bucket}/runs", "runs"]


def address_of(bucket: str, service: str) -> str:
    """Return the address of a bucket as the user wrote it.

    Raises:
        UsageError: the service cannot mount it.
    """
    if service == "sky":
        if re.fullmatch(r"(s3|gs)://[a-z0-9][a-z0-9._-]+", name := bucket.rstrip("/")):
            return name
        raise kdtool.UsageError(
            f"--bucket: {bucket!r} cannot be mounted; expected s3://NAME or gs://NAME without a folder; name a bucket of "
            "yours, or a new one, which SkyPilot creates"
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name := bucket.removeprefix("hf://buckets/")):
        return f"hf://buckets/{name}"
    raise kdtool.UsageError(
        f"--bucket: {bucket!r} is not a bucket of the Hub; expected OWNER/NAME; create one with "
        "`hf buckets create OWNER/NAME`"
    )


def _json(value: object) -> str:
    """Return a value as JSON, which YAML and TOML read too."""
    return json.dumps(value, ensure_ascii=False)
