"""Phases as planned, and estimates: the terms of a phase's losses, the planned run, and its memory, disk, time and money.

A term is a loss with its weight, teacher and temperature; its figures at a step are a `TermReport`. Components receive the
planned run as a `RunForecast`, and return each `Estimate` for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import cos, pi
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from kdtool._contract.language_model import LanguageModel, ModelFacts
from kdtool._contract.signals import SignalKind, SignalRequest

_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Schedule:
    """A number that changes over a phase: `start` until progress `begin`, `end` from progress `until`.

    `shape` is "linear", "cosine" or "step" (jumps at `until`). Progress runs from 0 to 1.
    """

    start: _Weight
    end: _Weight
    begin: _Share = 0.0
    until: _Share = 1.0
    shape: Literal["linear", "cosine", "step"] = "linear"
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        """Refuse an empty stretch.

        Raises:
            ValueError: `begin` is not before `until`.
        """
        if not self.begin < self.until:
            raise ValueError("begin must come before until; both are shares of the phase")

    def at(self, progress: float) -> float:
        """Return the value at `progress`."""
        if progress < self.begin or self.shape == "step":
            return self.end if progress >= self.until else self.start
        if progress >= self.until:
            return self.end
        done = (progress - self.begin) / (self.until - self.begin)
        if self.shape == "cosine":
            done = (1 - cos(pi * done)) / 2
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class LossTerm:
    """One loss of a phase. `name` is the component's key path, `label` its short name in reports and curves.

    The term's value is weight(progress) · scale · mean of the loss; `scale` is the temperature to the power
    `temperature_power` of the loss, so 1 for a loss without softened distributions. `teacher` is the source of signals, None
    for a loss that needs none, or that learns from several: `mixture` then holds the share of each, which sum to 1, and the
    loss receives Σ share · the teacher's probabilities at the term's temperature, as described in `DenseTokens` and
    `SparseTokens`. Only token losses learn from a mixture. `needs`, `divergence` and `forward_passes` are the loss's.
    `layers` pairs student and teacher layers for losses that compare layers. If one vocabulary begins with the other, both
    sides' logits are cut to the first `shared` tokens, the teacher's already in its signal, the student's by the trainer;
    None: both have the same. `routing` is the loss's, too.
    """

    name: str
    label: str
    weight: float | Schedule
    temperature: float = 1.0
    scale: float = 1.0
    teacher: str | None = None
    needs: tuple[frozenset[SignalKind], ...] = ()
    divergence: bool = False
    layers: tuple[tuple[int, int], ...] = ()
    shared: int | None = None
    forward_passes: Literal[1, 2] = 1
    mixture: Mapping[str, float] = field(default_factory=dict, hash=False)
    routing: bool = False

    @property
    def teachers(self) -> Mapping[str, float]:
        """All sources of signals, with their shares; empty for a loss that needs none."""
        return self.mixture or ({} if self.teacher is None else {self.teacher: 1.0})

    def weight_at(self, progress: float) -> float:
        """Return the weight at `progress` (0 to 1)."""
        return self.weight if isinstance(self.weight, float | int) else self.weight.at(progress)


@dataclass(frozen=True)
class TermReport:
    """One term at one step: its mean value before weighting, its weight, and its gradient norm if it was measured.

    `gradient_norm` is the norm of the weighted term's gradient by states of the student that all terms share, so that terms
    can be compared: by its final states, or by its embedding's output if a term compares layers.
    """

    value: float
    weight: float
    gradient_norm: float | None = None


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
