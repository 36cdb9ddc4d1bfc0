"""The terms of a phase: a loss with its weight, teacher and temperature, and its figures at a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import cos, pi
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from kdtool._contract.signals import SignalKind

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
