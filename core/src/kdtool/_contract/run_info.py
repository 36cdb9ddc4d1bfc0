"""The run as its components see it: stage and folder, other components, planned phases, and the whole run ahead.

A term of a phase is a loss with its weight, teacher and temperature; its figures at a step are a `TermReport`. Components
receive the planned run as a `RunForecast`, and return each `Estimate` of memory, disk, time and money for it, perhaps for
a GPU elsewhere (`kdtool check --gpu NAME`).

Figures of GPUs (`gpus.json`) are all dense: data sheets of L4, L40S, H100 and H200 print 16-bit figures with sparsity, twice
as much. The 16-bit figures were checked by the number of multiprocessors, clock and operations of each, the L40S's by a copy
of its sheet, and not against NVIDIA's documents themselves:

- T4, V100 (SXM2), A10, A10G, A100, L4, L40S, H100 (SXM), H200 (SXM), B200 (HGX), RTX PRO 6000: the data sheet of that
  name. PCIe versions of V100, H100 and H200 are slower.
- RTX 3050, 3060 and 3090: the white paper of Ampere GA102; RTX 4060 and 4090: that of Ada; RTX 5090: that of Blackwell. RTX
  2060: that of Turing. In 16 bits with float32 accumulation, as training does. MX450 and GTX 1650, which lack matrix
  units: cores, clock and twice as many operations in 16 bits.
- Apple's chips: float32 as announced with each chip, which 16 bits do not exceed. Apple gives no such figure for later ones.

Memory is in units of 10^9 bytes, as on the box; drivers report somewhat more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.resources import files
from math import cos, pi
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

from pydantic import ConfigDict, Field

from kdtool._contract.data import TextSource
from kdtool._contract.language_model import LanguageModel, ModelFacts
from kdtool._contract.licences import Licensed, published_name
from kdtool._contract.signals import SignalKind, SignalRequest
from kdtool._errors import UsageError

K = TypeVar("K")
N = TypeVar("N")


class Named(NamedTuple, Generic[N]):
    """An answer and the name of the component that gave it."""

    name: str
    value: N


@dataclass(frozen=True)
class Owner:
    """The plugin that provides a component: for messages."""

    name: str
    kind: str
    use: str
    distribution: str
    version: str

    def __str__(self) -> str:
        origin = f"{self.use}, {self.distribution} {self.version}".rstrip(", ") if self.distribution else self.use
        return f"{self.kind} '{self.name}' ({origin})"


class Hooks(Protocol):
    """The components of a run. `hooks.kdtool_x(…)` calls all that implement the hook, in the order of the recipe.

    A hook that answers returns the answers by component name, None left out; `kdtool_open` returns the first answer with
    the name of the component. A tracker that raises is disabled for the rest of the run; any other exception reaches the
    caller. Every call goes through pluggy, with all wrappers around it.
    """

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        """Return the call of a hook of all components."""

    def component(self, name: str, kind: type[K]) -> K:
        """Return one component; `kind` is its base class.

        Its hooks are called through pluggy. An optional hook that it does not implement returns None.

        Raises:
            UsageError: the run does not use a component of that name and kind.
            PluginError: calling a hook of it that must answer, and that it does not implement.
        """

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Return the names of the components that implement a hook, in the order of the recipe."""

    def bound(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Return the hook of each component that implements it, for hot or compiled loops: take it once.

        They are plain bound methods, without checks and tracing, as long as no component wraps the hook.
        """

    def owner(self, name: str) -> Owner | None:
        """Return the plugin that provides a component, for messages; None for an unknown name."""


@dataclass(frozen=True)
class RunInfo:
    """A component's access to the run. Write only into `folder`.

    `hook.kdtool_x(…)` calls a hook of all components that implement it, in the order of the recipe, and returns
    their answers by component name; `component` reaches one of them. `texts.examples(split)` yields the examples of a split.

    `arm` is "student", "control" (equal tokens) or "control-time" (equal wall time), "control-self" or "control-self-time"
    (the same on the untrained student's samples), or the name of a teacher that is trained. `stage` is the kind of artefact
    being made; for a phase of training, `phase` is its name. `label` distinguishes artefacts of one kind, such as
    "perplexity-student" among the scores; "" if there is only one. `rank` and `world` count processes. `say` shows a line
    to the user. `licences` are the terms of the run's components, and the student's use of them. `untrained` is the
    untrained student's folder while exporters check it (`kdtool_check`), and while a corpus of `control: {self: …}`
    samples from it. `time` is when an event happened, in seconds since 1970; only trackers get it. `unit` is what
    `kdtool_progress` counts, and what was spent on it, such as "requests, $0.420 of at most $5.00"; "" if it is the unit of
    the stage's start. `store` is the folder
    that runs share, for paid answers; None where there is none. `stage_title` is the stage in words, such as "training of
    student, seed 0".
    """

    name: str
    stage: str
    folder: Path
    hook: Hooks
    texts: TextSource
    arm: str = "student"
    seed: int = 0
    rank: int = 0
    world: int = 1
    offline: bool = False
    say: Callable[[str], None] = print
    phase: str = ""
    licences: tuple[Licensed, ...] = ()
    label: str = ""
    untrained: Path | None = None
    time: float = 0.0
    store: Path | None = None
    stage_title: str = ""
    unit: str = ""

    @property
    def stage_name(self) -> str:
        """The stage's name in `StageRecord`s and plans, such as `phases/student-seed0-train`. Since 0.1."""
        return "/".join(filter(None, (self.stage, self.label)))

    @property
    def published_name(self) -> str:
        """The name required of a published model of the run, such as one that begins with a teacher's name. Since 0.1."""
        return published_name(self.name, self.licences)

    def component(self, name: str, kind: type[K]) -> K:
        """Return one component, to call its hooks; `kind` is its base class. Since 0.1.

        An optional hook that it does not implement returns None.

        Raises:
            UsageError: the run does not use a component of that name and kind.
            PluginError: calling a hook of it that must answer, and that it does not implement.
        """
        return self.hook.component(name, kind)

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Return the names of the components that implement a hook, in the order of the recipe. Since 0.1."""
        return self.hook.implementing(hook)

    def bound(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Return each component's hook as a plain function for hot or compiled loops: take it once. Since 0.1."""
        return self.hook.bound(hook)


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
    run has one, else of the machine. `note` names the source of a number, or unknown parts. `picodollars` are expected, and
    `most_picodollars` is the most that it can cost; None stands for the same. `lacks` names what is missing on
    this machine, such as a key, and the remedy: a check shows it with the rest, and a run stops before it makes anything.
    `waiting_seconds` is the longest time that the run waits idly for a service, once or several times.
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
    most_picodollars: int | None = None
    lacks: str = ""
    waiting_seconds: float = 0.0


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


@dataclass(frozen=True)
class Gpu:
    """A GPU's published figures: memory in bytes, and dense operations a second in 16 bits and in float32.

    `bfloat16` is True for those that compute in it, on which flash attention runs too. `unified` memory is the machine's.
    """

    name: str
    memory: int
    half: float
    single: float
    bfloat16: bool = True
    unified: bool = False

    @classmethod
    def find(cls, name: str) -> Gpu:
        """Return the published figures of a GPU by its name, such as "a100-80gb" or "A100 80GB". Since 0.1.

        Raises:
            UsageError: it is unknown.
        """
        plain = {re.sub(r"[\s_-]", "", each): gpu for each, gpu in GPUS.items()}
        if (gpu := plain.get(re.sub(r"[\s_-]", "", name.lower()))) is None:
            raise UsageError(f"--gpu: {name!r} is unknown; give one of {', '.join(GPUS)}")
        return gpu

    @classmethod
    def of_check(cls) -> Gpu | None:
        """Return the GPU that a check assumes instead of this machine's devices; None elsewhere. Since 0.1."""
        return _assumed.get()


GPUS = {
    name: Gpu(name, **figures)
    for name, figures in json.loads(files("kdtool").joinpath("gpus.json").read_text(encoding="utf-8")).items()
}


_assumed: ContextVar[Gpu | None] = ContextVar("kdtool_assumed_gpu", default=None)


@contextmanager
def assume(gpu: Gpu | None) -> Iterator[None]:
    """Have components describe and estimate for this GPU within the block."""
    token = _assumed.set(gpu)
    try:
        yield
    finally:
        _assumed.reset(token)
