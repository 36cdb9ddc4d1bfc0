"""A worker on the machine of the run, for stages that are not submitted."""

from __future__ import annotations

import subprocess
from pathlib import Path


class LocalProcess:
    """A command that runs on this machine; its output goes into a file."""

    def __init__(self, command: list[str], output: Path) -> None:
        with output.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)  # noqa: S603

    def done(self) -> bool:
        """Return whether it has ended."""
        return self._process.poll() is not None

    def result(self) -> None:
        """Raise if it failed."""
        if code := self._process.poll():
            raise ChildProcessError(f"exit code {code}")

    def cancel(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.terminate()
