"""Records of estimates: what components are told of a run that is not made yet, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdtool._contract.language_model import LanguageModel, ModelFacts
from kdtool._contract.loss_terms import Term
from kdtool._contract.signals import Want

__all__ = ["Estimate", "PhaseAhead", "Prospect", "Saving", "SignalsAhead"]


@dataclass(frozen=True)
class Saving:
    """Settings of the component under which a part of memory would be smaller, and what they cost the user.

    `settings` are keys of the component's `Config`; `cost` goes into a sentence: "a third slower". One that `changes_result`
    is proposed after those that do not. One that `freezes` most weights is not proposed where these are random.
    """

    settings: Mapping[str, Any]
    cost: str
    changes_result: bool = False
    freezes: bool = False


@dataclass(frozen=True)
class Estimate:
    """One part of what a component will take: memory while it is held, and what is spent once. 0 means none, not unknown.

    Memory is held during `stages`, names of `Prospect.stages`; parts of one stage add up, stages do not. Without stages it
    is held from the first stage that uses the component to the run's end. A stage may have moments that do not add up
    either: `<stage>: <moment>`, such as "phases/train: backward". Disk of a part with stages is free again behind them.
    `uses` names other components whose models are opened for this part, `unloads` those whose models are freed for its
    stages. Parts with `download_bytes` and the same name are one download. `compute_bytes` is memory where models compute:
    of the GPU if the run has one, else of the machine. `note` says where a number is from, or what is not known.
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
    uses: tuple[str, ...] = ()
    savings: tuple[Saving, ...] = ()
    compute_bytes: int = 0
    unloads: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhaseAhead:
    """A phase of training as it will be. `row_length` is 0 where the packer does not say.

    `outline` is the student as the phase trains it, shapes without weights; None where the student gives none.
    `beside` names the teachers that run beside the student, `cached` those whose signals were recorded before.
    """

    name: str
    stage: str
    arm: str
    steps: int
    terms: tuple[Term, ...]
    row_length: int
    outline: LanguageModel | None
    facts: ModelFacts | None
    beside: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()


@dataclass(frozen=True)
class SignalsAhead:
    """Signals that a cache will record of a teacher. `tokens` is 0 where nobody knows yet how many there are."""

    stage: str
    cache: str
    teacher: str
    want: Want
    row_length: int
    tokens: int


_ITEM_BYTES = {"bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Prospect:
    """A run that is not made yet. `models` are described by component; `phase` is that of the component that is asked.

    `stages` are the names of what the run goes through, in order. `opened` names the subjects that evaluators measure.
    """

    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    student: str = ""
    stages: tuple[str, ...] = ()
    phases: tuple[PhaseAhead, ...] = ()
    signals: tuple[SignalsAhead, ...] = ()
    teachers: tuple[str, ...] = ()
    phase: PhaseAhead | None = None

    @property
    def student_bytes(self) -> int:
        """Bytes of the trained student's weights, as it is saved and opened; 0 where the student is not described.

        Weights that learn are saved in float32, and all others beside them. Where only what a phase adds learns, such as
        adapters, the student keeps the dtype in which it was built.
        """
        student = self.models.get(self.student)
        if student is None:
            return 0
        outlined = [phase.facts for phase in self.phases]
        added = [facts is not None and facts.trainable <= facts.parameters - student.parameters for facts in outlined]
        kept = _ITEM_BYTES.get(student.dtype, 4) if all(added) else 4
        return kept * student.parameters
