"""A job as both services need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MOUNT", "Job"]

MOUNT = "/kdtool"
"""Folder of the rented machine where the bucket is mounted, with the store and the folder for runs."""


@dataclass(frozen=True)
class Job:
    """A recipe in a bundle, with the settings of its run.

    Args:
        name: the recipe's name.
        folder: the bundle, see `write_bundle`.
        recipe: the recipe's file in it.
        bucket: where store and runs are kept, as the user wrote it.
        settings: values of `--set`.
        secrets: names of environment variables that the machine gets from this one.
        sandbox: False leaves out evaluators that run generated programs.
    """

    name: str
    folder: Path
    recipe: str
    bucket: str
    settings: Mapping[str, str]
    secrets: tuple[str, ...] = ()
    sandbox: bool = True

    def run_arguments(self) -> list[str]:
        """Return the arguments of `kdtool` on the machine, without the recipe's folder."""
        settings = [word for key, value in self.settings.items() for word in ("--set", f"{key}={value}")]
        no_sandbox = [] if self.sandbox else ["--no-sandbox"]
        return ["run", self.recipe, "--out", f"{MOUNT}/runs", "--store", f"{MOUNT}/store", *no_sandbox, *settings]
