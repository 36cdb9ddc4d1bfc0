"""The record of a whole run: what the runner found out and reporters turn into something people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdtool._contract.models import Artifact, Measurement, ModelFacts, Subject
from kdtool._contract.training import StepReport, Trained
from kdtool._licences import Licensed

__all__ = ["ArmResult", "Comparison", "ComponentRecord", "Results", "StageRecord"]


@dataclass(frozen=True)
class Comparison:
    """Student against control on one measurement, paired over items and seeds.

    `difference` is student minus control after the transform (a ratio minus 1 for "exp"); `low` and `high` bound its 95 %
    interval. `verdict` is "better", "worse" or "no evidence of a difference", seen from the student.
    """

    measurement: str
    control: str
    student_value: float
    control_value: float
    difference: float
    low: float
    high: float
    relative: bool
    verdict: Literal["better", "worse", "no evidence of a difference"]
    seeds: int
    items: int


@dataclass(frozen=True)
class ComponentRecord:
    """A component that took part: enough to trace a number to the code that made it."""

    name: str
    kind: str
    use: str
    distribution: str
    version: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class StageRecord:
    """An artefact of the run: `seconds` is what making it cost, whenever that was; `reused` says it was not made now."""

    name: str
    fingerprint: str
    seconds: float
    reused: bool
    path: Path


@dataclass(frozen=True)
class ArmResult:
    """One arm with one seed: what each phase cost and where the model lies."""

    arm: str
    seed: int
    path: Path
    phases: Mapping[str, Trained]
    histories: Mapping[str, tuple[StepReport, ...]] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class Results:
    """Everything a run found out. `folder` holds `results.json` with the same content.

    `subjects` tell the role and seed of each measured subject's name; `models` the shapes of "student" and of each teacher
    by component name; `data` counts documents and bytes a split, licences, languages, sources, rejections, rows, and the
    seconds that the teacher's signals cost. Paths below `folder` are relative to it in `results.json`.
    """

    name: str
    folder: Path
    verdict: str
    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]
    arms: tuple[ArmResult, ...]
    stages: tuple[StageRecord, ...]
    components: tuple[ComponentRecord, ...]
    models: Mapping[str, ModelFacts]
    data: Mapping[str, Any]
    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Mapping[str, str]
    seconds: float
    notes: tuple[str, ...] = ()
    report: Path | None = None
    subjects: tuple[Subject, ...] = ()
    licences: tuple[Licensed, ...] = ()
