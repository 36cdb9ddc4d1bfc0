"""A tracker that brings about a fault at a chosen moment of a run, and logs what the run did. Named by recipes of tests.

The environment says which: `FAULT` is "<node> <what> <number>"; nodes are counted in the order in which a run makes or
reuses them, and the one after the last is the report; `kill-at-any-step` is of no node. `FAULT_LOG` is a file for what was
done and when.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import kdtool


class Faults(kdtool.Tracker):
    """Kills or stops the process, fills the disk or makes it read-only."""

    synchronous = True

    def __init__(self, config: kdtool.Config) -> None:
        super().__init__(config)
        node, self._what, number = os.environ.get("FAULT", "-1 nothing 0").split()
        self._node, self._number, self._done = int(node), float(number), 0

    def kdtool_stage_start(self, run: kdtool.RunInfo, total: int | None, unit: str) -> None:
        self._log(f"start {run.stage}:{run.arm}")
        if self._done == self._node and self._what != "checkpoint":
            self._begin()

    def kdtool_checkpoint(self, run: kdtool.RunInfo, path: Path, step: int) -> None:
        self._log(f"checkpoint {run.arm} {step}")
        if self._done == self._node and self._what == "checkpoint":
            fill(int(self._number))

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self._log(f"step {run.arm} {report.step}")
        if self._done == self._node and self._what == "kill-at-step" and report.step == self._number:
            threading.Thread(target=self._die, args=[0.002], daemon=True).start()
        if self._what == "kill-at-any-step" and report.step == self._number:
            self._die()
        if self._done == self._node and self._what.startswith("signal-") and report.step == self._number:
            os.kill(os.getpid(), int(self._what.split("-")[1]))

    def kdtool_stage_end(self, run: kdtool.RunInfo, seconds: float, reused: bool) -> None:
        if self._done == self._node and self._what == "kill" and not reused:
            self._die()  # the stage was quicker than the moment that was chosen
        self._log(f"{'reused' if reused else 'made'} {run.stage}:{run.arm}")
        self._done += 1
        if self._done == self._node == int(os.environ.get("FAULT_NODES", "-1")):
            self._log("start report")
            self._begin()

    def kdtool_run_end(self, run: kdtool.RunInfo, status: str, report: Path | None) -> None:
        if status == "done" and self._what == "kill":
            self._die()
        self._log(f"end {status}")

    def _begin(self) -> None:
        if self._what == "kill":
            threading.Thread(target=self._die, args=[self._number], daemon=True).start()
        elif self._what == "fill":
            fill(int(self._number))
        elif self._what == "read-only":
            disk = os.environ["FAULT_DISK"]
            subprocess.run(["mount", "--bind", disk, disk], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", disk], check=True)

    def _die(self, seconds: float = 0.0) -> None:
        time.sleep(seconds)
        self._log(f"killed {self._node} {self._done}")
        os.kill(os.getpid(), signal.SIGKILL)

    def _log(self, line: str) -> None:
        with Path(os.environ["FAULT_LOG"]).open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic()} {line}\n")


def fill(left: int) -> None:
    """Write until the disk takes no more than `left` bytes."""
    path = Path(os.environ["FAULT_DISK"]) / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
        file.truncate(path.stat().st_size - left)
