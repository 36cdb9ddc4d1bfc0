"""Processor time of recipes, measured in short trainings before a study gives all of them the same time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import median
from typing import Any, ClassVar, NamedTuple

import kdtool
from study import JsonLines
from trainings import Trainings


class StepClock(kdtool.Tracker):
    """A tracker that notes processor time: after every logged step of each arm, and what recording signals took."""

    synchronous = True
    steps: ClassVar[dict[str, list[float]]] = {}
    signals: ClassVar[list[float]] = []
    """Both of the class, since the engine makes the component and the study reads it."""

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self.steps.setdefault(run.arm, []).append(time.process_time())

    def kdtool_stage_start(self, run: kdtool.RunInfo, total: int | None, unit: str) -> None:
        self._start = time.process_time()

    def kdtool_stage_end(self, run: kdtool.RunInfo, seconds: float, reused: bool) -> None:
        if run.stage == "signals" and not reused:
            self.signals.append(time.process_time() - self._start)


class Calibration(NamedTuple):
    """Processor seconds of a recipe: of a step, of recording all its signals, of a step of adapting its teacher."""

    step: float
    recording: float = 0.0
    adapting_step: float = 0.0


def calibrated(trainings: Trainings, arms: Mapping[str, Mapping[str, Any]], rounds: int = 2) -> dict[str, Calibration]:
    """Calibrate recipes by short trainings, all in turn, for some rounds: medians of steps, and what was done only once.

    Processor time hardly depends on what else runs, and what is left of that meets all recipes alike. The first step of a
    training, which warms up, is not counted.
    """
    found = JsonLines(trainings.folder / "calibration.jsonl")
    for number in range(rounds):
        for arm, settings in arms.items():
            if found.where(arm=arm, round=number):
                continue
            StepClock.steps.clear()
            StepClock.signals.clear()
            shutil.rmtree(trainings.run("calibration", {**_shortened(settings), "seeds": [number]}).folder)
            seconds = {name: [b - a for a, b in pairwise(stamps)] for name, stamps in StepClock.steps.items()}
            taught, recording = seconds.get("teacher", []), sum(StepClock.signals)
            found.add(
                {"arm": arm, "round": number, "seconds": seconds["student"], "adapting": taught, "recording": recording}
            )
    return {arm: _calibration(found.where(arm=arm)) for arm in arms}


def _shortened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with few steps of its last phase, each of them logged."""
    phases = settings["train"]
    short = {**phases, "steps": 6} if "losses" in phases else {**phases, "distil": {**phases["distil"], "steps": 6}}
    clock = {"clock": {"use": "calibration:StepClock", "required": True}}
    return {**settings, "trainer": {**settings["trainer"], "log_every": 1}, "train": short, "trackers": clock}


def _calibration(lines: Iterable[Mapping[str, Any]]) -> Calibration:
    steps, taught = ([second for line in lines for second in line[key]] for key in ("seconds", "adapting"))
    return Calibration(median(steps), sum(line["recording"] for line in lines), median(taught) if taught else 0.0)
