"""A process that is killed while a teacher answers, and finishes in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

Killing = Callable[[str, Path, Iterable[int]], list[str]]


@pytest.fixture
def kill_and_resume(request: pytest.FixtureRequest) -> Killing:
    """Return a function that runs code, which notes what it does in a file, and returns the notes.

    It kills the process each time that this number of notes is there, and then lets it finish.
    """

    def run(code: str, notes: Path, kills: Iterable[int]) -> list[str]:
        def noted() -> list[str]:
            return notes.read_text("utf-8").splitlines() if notes.exists() else []

        command = [sys.executable, "-c", code, str(request.path.parent), str(notes.parent)]
        for count in kills:
            process = subprocess.Popen(command)
            while process.poll() is None and len(noted()) < count:
                time.sleep(0.01)
            assert process.poll() is None, "it ended before it was killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, check=True)
        return noted()

    return run
