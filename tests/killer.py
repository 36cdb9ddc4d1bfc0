"""A tracker that kills its process at a chosen point of a stage: the environment's `KILL_AT` is "<stage> <point> <number>".

Points are `progress` and `step`, which the run reports, and those between them and the end of a stage: `end` (all files are
there, no manifest), `rename` (the manifest is there) and `saved` (a phase's model is committed, its checkpoints are there).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import kdtool
from kdtool._run.stages import phase_training
from kdtool._store import artefacts

STAGE, POINT, NUMBER = os.environ.get("KILL_AT", "none none 0").split()


def kill() -> None:
    """End as a power failure would."""
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(kdtool.Tracker):
    """Kills the process."""

    synchronous = True

    def kdtool_progress(self, run: kdtool.RunInfo, done: int) -> None:
        if (run.stage, POINT) == (STAGE, "progress") and done >= int(NUMBER):
            kill()

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        if (run.stage, POINT) == (STAGE, "step") and report.step == int(NUMBER):
            kill()


def _before(module: Any, name: str, path_of: Any) -> None:
    """Kill before a function is called on a folder of the stage."""
    function = getattr(module, name)

    def killing(*arguments: Any, **more: Any) -> Any:
        if path_of(arguments).parent.name == STAGE:
            kill()
        return function(*arguments, **more)

    setattr(module, name, killing)


if POINT == "end":
    _before(artefacts, "write_sealed", lambda found: found[0].parent if found[0].name == "manifest.json" else Path())
if POINT == "rename":
    _before(artefacts, "_complete", lambda found: found[0])
if POINT == "saved":
    _before(phase_training, "commit", lambda found: found[0] if len(found) == 1 else Path())
