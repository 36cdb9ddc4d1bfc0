"""Training as the engine and a trainer share it: the run's surroundings, phases, terms, reports of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import ConfigDict, Field

from kdtool._contract.signals import Offer, Want

if TYPE_CHECKING:
    import kdtool


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
            raise ValueError("begin is to be before until, as shares of the phase")

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
class Term:
    """One loss of a phase. `name` is the component's key path, `label` its short name in reports and curves.

    The term's value is weight(progress) · scale · mean of the loss; `scale` is the temperature to the power that the loss
    says as `softened`, so 1 for one that softens nothing. `teacher` is the component asked for signals, None for a loss that
    needs none, or that learns from several: `mixture` then holds the share of each, which sum to 1, and the loss receives
    Σ share · the teacher's probabilities at the term's temperature, as `DenseTokens` and `SparseTokens` say. Only token
    losses learn from a mixture. `needs`, `divergence` and `passes` are the loss's. `layers` pairs student and teacher layers
    for losses that look inside.
    Where one vocabulary begins with the other, both sides' logits are cut to the first `shared` tokens, the teacher's
    already in its signal, the student's by the trainer; None: both have the same.
    """

    name: str
    label: str
    weight: float | Schedule
    temperature: float = 1.0
    scale: float = 1.0
    teacher: str | None = None
    needs: tuple[frozenset[Offer], ...] = ()
    divergence: bool = False
    layers: tuple[tuple[int, int], ...] = ()
    shared: int | None = None
    passes: Literal[1, 2] = 1
    mixture: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def teachers(self) -> Mapping[str, float]:
        """All components asked for signals, with their shares; none for a loss that needs none."""
        return self.mixture or ({} if self.teacher is None else {self.teacher: 1.0})

    def weight_at(self, progress: float) -> float:
        """Return the weight at `progress` (0 to 1)."""
        return self.weight if isinstance(self.weight, float | int) else self.weight.at(progress)


class SignalSource(Protocol):
    """Where a phase's signals of one teacher come from: the teacher itself or a cache."""

    @property
    def want(self) -> Want:
        """What every signal will hold."""

    def signal(self, batch: kdtool.Batch) -> kdtool.Signal:
        """Return the signal for a batch, on the batch's device."""


@dataclass(frozen=True)
class RunInfo:
    """What a component may know about the run. Write only into `folder`.

    `arm` is "student", "control" (equal tokens) or "control-time" (equal wall time), or the name of a teacher that is
    trained. `stage` is the kind of artefact being made; where that is a phase of training, `phase` is its name. `label`
    tells artefacts of one kind apart, as "perplexity-student" does among the scores; "" where there is one. `rank` and
    `world` count processes. `say` shows a line to the user. `licences` are the terms that the run's components bring, and
    what the student takes under them.
    """

    name: str
    stage: str
    folder: Path
    hook: kdtool.Hooks
    texts: kdtool.TextSource
    arm: str = "student"
    seed: int = 0
    rank: int = 0
    world: int = 1
    offline: bool = False
    say: Callable[[str], None] = print
    phase: str = ""
    licences: tuple[kdtool.Licensed, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Phase:
    """One phase of training. `checkpoints` is a folder that survives a killed process; the trainer resumes from it.

    `teacher_rows` are, for a teacher that does not read the student's tokens, the same rows in its own tokenizer, by number
    and key: its signals are of these. `gradient_norms` says that a weighting of the phase uses them, at every step.
    """

    name: str
    steps: int
    terms: tuple[Term, ...]
    rows: kdtool.RowSource
    signals: Mapping[str, SignalSource]
    checkpoints: Path
    weightings: tuple[str, ...] = ()
    teacher_rows: Mapping[str, kdtool.RowSource] = field(default_factory=dict)
    gradient_norms: bool = False

    @property
    def wanted(self) -> Want:
        """What to ask of the student's backbone: of the layers that terms pair, what their teachers are asked for."""
        paired = [term for term in self.terms if term.layers]
        kinds = frozenset(kind for term in paired for kind in self.signals[term.teacher or ""].want.kinds)
        layers = sorted({own for term in paired for own, _ in term.layers})
        return Want(kinds & {"hidden", "attentions", "projections"}, tuple(layers))


@dataclass(frozen=True)
class Trained:
    """What a phase left. `seconds` is time spent in training steps, over all resumptions, without set-up.

    `history` is a JSON Lines file of `StepReport`s. `notes` are things the user must know (a term that did nothing).
    """

    steps: int
    tokens: int
    seconds: float
    history: Path
    dtype: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TermReport:
    """One term at one step: its mean value before weighting, its weight, and its gradient norm where it was taken.

    `gradient_norm` is the norm of the weighted term's gradient by states of the student that all terms share, so that terms
    can be compared: by its final states, or by what its embedding returns where a term compares layers inside.
    """

    value: float
    weight: float
    gradient_norm: float | None = None


@dataclass(frozen=True)
class StepReport:
    """A logged step: counts are since the phase began, `seconds` likewise, `loss` is the weighted sum of the terms.

    A term that saw no token at this step is in neither: cross-entropy where the student wrote all text itself.
    `metrics` holds what evaluators measured after this step, by EVALUATOR.MEASUREMENT; most steps have none.
    """

    step: int
    steps: int
    tokens: int
    seconds: float
    loss: float
    learning_rate: float
    gradient_norm: float
    terms: Mapping[str, TermReport] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


Transfer = Literal["weights", "signals", "text"]
"""What a student can take of others: weights that are copied, what a model says about tokens or inside it, text."""


@dataclass(frozen=True)
class Terms:
    """A licence or terms of use that a component brings: shown before a run and recorded with it.

    `licence` is an SPDX expression or the name that all components use for it. `restrictions` bind whoever uses or passes on
    what took something of the component; a recipe in which a student does must acknowledge them. `forbids` are transfers
    into a model none of whose weights are under the same licence. `notices` are to be repeated word for word by the model
    card, and a model that is published has a name that begins with `name_prefix`.
    """

    licence: str
    url: str = ""
    restrictions: tuple[str, ...] = ()
    forbids: tuple[Transfer, ...] = ()
    notices: tuple[str, ...] = ()
    name_prefix: str = ""
