"""The record of a whole run: what the runner found out and reporters turn into something people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdtool._contract.models import Artifact, Measurement, ModelFacts, Subject
from kdtool._contract.training import StepReport, Trained
from kdtool._licences import Licensed

__all__ = ["ArmResult", "Comparison", "ComponentRecord", "Requirement", "Results", "StageRecord", "where"]


@dataclass(frozen=True)
class Comparison:
    """Two arms on one measurement, paired over items and seeds: `arm` seen against another.

    An arm is "student", "control", "control-time", a teacher's or a file's name. `difference` is `value` minus
    `against_value` after the transform (a ratio minus 1 for "exp"); `low` and `high` bound its 95 % interval, over items
    and, where there are several, seeds; a ratio's may be infinite, where a seed diverged. `verdict` is "better", "worse" or
    "no evidence of a difference", seen from `arm`.
    `share` is `value` as a share of a teacher's, with its 95 % interval where there is one; None against other arms, and
    where a ratio says nothing: lower is better, or the unit has no zero.
    """

    measurement: str
    arm: str
    against: str
    value: float
    against_value: float
    difference: float
    low: float
    high: float
    relative: bool
    verdict: Literal["better", "worse", "no evidence of a difference"]
    seeds: int
    items: int
    share: tuple[float, float | None, float | None] | None = None


@dataclass(frozen=True)
class Requirement:
    """A condition of the recipe: the student's value, None where it was not measured, and what came of it in words."""

    measurement: str
    condition: str
    value: float | None
    met: bool
    text: str


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

    `subjects` tell the role, arm and seed of each measured subject's name; `models` the shapes of "student" and of each
    teacher by component name; `data` counts documents and bytes a split, licences, languages, sources, rejections, rows, and
    the seconds that the teacher's signals cost. Paths below `folder` are relative to it in `results.json`.
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
    requirements: tuple[Requirement, ...] = ()


def where(results: Results) -> str:
    """Return the line that says where to look: at the report, or into the run's folder where nobody wrote one."""
    return f"report: {results.report}" if results.report else f"results: {results.folder}"
