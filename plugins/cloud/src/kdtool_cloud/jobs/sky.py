"""A managed job of SkyPilot: a spot machine, which is replaced when it is taken away, with a bucket for store and runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from math import ceil

import kdtool
import yaml

from kdtool_cloud.jobs.bundle import MOUNT, WHEELS, Job
from kdtool_cloud.jobs.forecast import Forecast

GPUS = {
    "t4": "T4",
    "l4": "L4",
    "a10": "A10",
    "v100": "V100-32GB",
    "a100-40gb": "A100",
    "l40s": "L40S",
    "a100-80gb": "A100-80GB",
    "h100": "H100",
    "h200": "H200",
}
"""SkyPilot's names of GPUs, by kdtool's, in the order of their memory."""
_STORES = {"s3": "s3", "gs": "gcs"}
_FETCH = {"s3": ["aws", "s3", "sync"], "gs": ["gcloud", "storage", "rsync", "--recursive"]}
_SYSTEM_DISK = 60
"""GB for the system, Python and torch with CUDA."""
_FILE = "task.yaml"
_PYTHON = "~/kdtool-env/bin/python"
_SETUP = f"""\
set -e
command -v bwrap || (sudo apt-get update -qq && sudo apt-get install -y -qq bubblewrap)
command -v uv || curl -LsSf https://astral.sh/uv/install.sh | sh
export PATH="$HOME/.local/bin:$PATH"
uv venv --clear --python 3.12 ~/kdtool-env
uv pip install \\
  --python {_PYTHON} {{requirements}}
"""


def write_job(job: Job, needs: Forecast, requirements: Sequence[str], lines: Iterable[str]) -> None:
    """Write `task.yaml` into the bundle; `lines` are the estimate in words, for its head.

    Raises:
        UsageError: the bucket is not of a form that SkyPilot can mount.
    """
    scheme, bucket = _bucket(job.bucket)
    mount = {
        "name": bucket,
        "store": _STORES[scheme],
        "mode": "MOUNT_CACHED",  # a plain mount can neither rename, append, nor write a SQLite file
        "config": {"mount_cached": {"transfers": 1}},  # one after the other: a manifest after the files that it lists
    }
    task = {
        "name": job.name,
        "workdir": ".",
        "resources": {
            "accelerators": f"{GPUS[needs.gpu]}:1",
            "use_spot": True,
            "memory": f"{max(8, ceil(needs.host_bytes / 1e9))}+",
            "disk_size": _SYSTEM_DISK + ceil(needs.disk_bytes / 1e9),
        },
        "file_mounts": {MOUNT: mount},
        **({"secrets": dict.fromkeys(job.secrets)} if job.secrets else {}),
        "setup": _SETUP.format(requirements=f"{shlex.join(requirements)} {WHEELS}/*.whl".strip()),
        "run": f"{_PYTHON} -m kdtool {shlex.join(job.run_arguments())}\n",
    }
    head = "".join(f"# {line}\n" for line in [f"Written by kdtool cloud for {job.recipe}.", *lines])
    text = yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=1000)
    (job.folder / _FILE).write_text(head + text, encoding="utf-8")


def launch_command(job: Job, _: Forecast) -> list[str]:
    """Return the command that starts the job from the bundle, or resumes the run."""
    secrets = [word for name in job.secrets for word in ("--secret", name)]
    return ["sky", "jobs", "launch", "--name", job.name, *secrets, _FILE]


def fetch_command(job: Job) -> list[str]:
    """Return the command that copies runs from the bucket into `runs`."""
    scheme, bucket = _bucket(job.bucket)
    return [*_FETCH[scheme], f"{scheme}://{bucket}/runs", "runs"]


def _bucket(text: str) -> tuple[str, str]:
    scheme, _, name = text.rstrip("/").partition("://")
    if scheme not in _STORES or not re.fullmatch(r"[a-z0-9][a-z0-9._-]+", name):
        raise kdtool.UsageError(
            f"--bucket: {text!r} cannot be mounted; expected s3://NAME or gs://NAME without a folder; name a bucket of "
            "yours, or a new one, which SkyPilot creates"
        )
    return scheme, name


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Writes text of several lines as a block."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
