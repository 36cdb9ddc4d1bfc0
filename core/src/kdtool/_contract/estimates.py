"""Records of estimates: the planned run that components receive, and their estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdtool._contract.language_model import LanguageModel, ModelFacts
from kdtool._contract.loss_terms import LossTerm
from kdtool._contract.signals import SignalRequest

__all__ = ["Estimate", "PlannedPhase", "PlannedSignals", "RunForecast", "Saving"]


@dataclass(frozen=True)
class Saving:
    """Settings of the component that would make a part of memory smaller, and their cost to the user.

    `settings` are keys of the component's `Config`; `cost` goes into a sentence: "a third slower". A saving that
    `changes_result` is proposed after those that do not. One that `freezes` most weights is not proposed for random
    weights.
    """

    settings: Mapping[str, Any]
    cost: str
    changes_result: bool = False
    freezes: bool = False


@dataclass(frozen=True)
class Estimate:
    """One part of a component's needs: memory while it is held, and resources spent once. 0 means none, not unknown.

    Memory is held during `stages`: names of `RunForecast.stages`, or kinds of stages, such as "students"; parts of one stage
    add up, stages do not. "scores" and "exports" are those of the component, if it is an evaluator or an exporter. Without
    stages it is held from the first stage that asks the component, if it is a teacher, to the run's end. A stage may have
    moments that do not add up either: `<stage>: <moment>`, such as "phases/student-seed0-train: backward". Disk of a part
    with stages is free again after them. `unloads` names components whose models are freed during the stages. Parts with
    `download_bytes` and the same name are one download. `compute_bytes` is memory where models compute: of the GPU if the
    run has one, else of the machine. `note` names the source of a number, or unknown parts.
    """

    part: str
    stages: tuple[str, ...] = ()
    host_bytes: int = 0
    device_bytes: int = 0
    disk_bytes: int = 0
    download_bytes: int = 0
    seconds: float = 0.0
    tokens: int = 0
    picodollars: int = 0
    note: str = ""
    savings: tuple[Saving, ...] = ()
    compute_bytes: int = 0
    unloads: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedPhase:
    """A planned phase of training: `stage` is that of the first seed. `row_length` is 0 if unknown.

    `outline` is the student as the phase trains it, shapes without weights; None if the student has none.
    """

    name: str
    stage: str
    arm: str
    steps: int
    terms: tuple[LossTerm, ...]
    row_length: int
    outline: LanguageModel | None
    facts: ModelFacts | None
    beside: tuple[str, ...] = ()
    """Online teachers, which run with the student."""
    cached: tuple[str, ...] = ()
    """Teachers whose signals were recorded before."""


@dataclass(frozen=True)
class PlannedSignals:
    """Signals that a cache will record of a teacher. `tokens` is 0 if unknown."""

    stage: str
    cache: str
    teacher: str
    want: SignalRequest
    row_length: int
    tokens: int


_ITEM_BYTES = {"bfloat16": 2, "float16": 2}


def bytes_of_weights(facts: ModelFacts) -> int:
    """Return the bytes of a model's weights in its own dtype."""
    return _ITEM_BYTES.get(facts.dtype, 4) * facts.parameters


@dataclass(frozen=True)
class RunForecast:
    """A planned run. `models` are described by component; `phase` is that of the component being called.

    `stages` are the names of the run's stages, in order, as in plans and records.
    """

    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    student: str = ""
    stages: tuple[str, ...] = ()
    phases: tuple[PlannedPhase, ...] = ()
    signals: tuple[PlannedSignals, ...] = ()
    teachers: tuple[str, ...] = ()
    phase: PlannedPhase | None = None

    @property
    def student_bytes(self) -> int:
        """Bytes of the trained student's weights, as saved and opened; 0 if the student is not described.

        A trained student is saved in float32. If only additions of a phase learn, such as adapters, it keeps its original
        dtype.
        """
        student = self.models.get(self.student)
        if student is None:
            return 0
        outlined = [phase.facts for phase in self.phases]
        added = [facts is not None and facts.trainable <= facts.parameters - student.parameters for facts in outlined]
        return bytes_of_weights(student) if all(added) else 4 * student.parameters
