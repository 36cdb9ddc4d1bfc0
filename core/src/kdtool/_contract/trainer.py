"""Trainers, and the phase that a trainer trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdtool._contract.component import Component
from kdtool._contract.data import RowSource
from kdtool._contract.hooks import hook
from kdtool._contract.language_model import LanguageModel
from kdtool._contract.loss_terms import LossTerm, TermReport
from kdtool._contract.run_info import RunInfo
from kdtool._contract.signals import SignalRequest
from kdtool._contract.teacher import SignalSource


@dataclass(frozen=True)
class Phase:
    """One phase of training. `checkpoints` is a folder that survives a killed process; the trainer resumes from it.

    For a teacher that does not use the student's tokens, `teacher_rows` holds the same rows in its tokenizer, by number and
    key: its signals are for these. `gradient_norms` is true if a weighting of the phase uses them, at every step.
    """

    name: str
    steps: int
    terms: tuple[LossTerm, ...]
    rows: RowSource
    signals: Mapping[str, SignalSource]
    checkpoints: Path
    weightings: tuple[str, ...] = ()
    teacher_rows: Mapping[str, RowSource] = field(default_factory=dict)
    gradient_norms: bool = False

    @property
    def student_request(self) -> SignalRequest:
        """Outputs to request of the student's backbone: for paired layers the kinds requested of their teachers; routing."""
        paired = [term for term in self.terms if term.layers]
        kinds = frozenset(kind for term in paired for kind in self.signals[term.teacher or ""].want.kinds)
        layers = sorted({own for term in paired for own, _ in term.layers})
        kinds &= {"hidden", "attentions", "projections"}
        return SignalRequest(kinds, tuple(layers), routing=any(term.routing for term in self.terms))


@dataclass(frozen=True)
class Trained:
    """The result of a phase. `seconds` is time spent in training steps, over all resumptions, without set-up.

    `history` is a JSON Lines file of `StepReport`s. `notes` are facts that the user must know (a term without effect).
    """

    steps: int
    tokens: int
    seconds: float
    history: Path
    dtype: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """A logged step: counts are since the phase began, `seconds` likewise, `loss` is the weighted sum of the terms.

    A term without tokens at this step is in neither, such as cross-entropy if all text is on-policy. `metrics` holds
    measurements of evaluators after this step, by EVALUATOR.MEASUREMENT; most steps have none. `memory` is the bytes of
    the training process: the most allocated on its GPU, or its main memory where it has none; 0 if unknown. `figures` are
    other numbers by name, such as `overlap_ratio`, at the steps that measured them.
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
    memory: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)


class Trainer(Component):
    """Trains one phase."""

    kind = "trainer"
    on_policy: str = ""
    """The setting that enables on-policy text, which the student writes during training; None in the config disables it. ""
    if there is no such setting. Signals of such text cannot be recorded, so teachers run with the student and must use
    its tokens. Losses that learn only from labels do not receive it."""
    validators: Sequence[str] = ()
    """Evaluators of the recipe that it runs during training, by their short names, such as `perplexity`; may depend on the
    config. They must exist, and the result of a phase depends on them."""
    rows_per_step: int = 0
    """Rows of a step in one process, or in all of them if `elastic`; may depend on the config. 0: unknown. A control of
    equal tokens must have as many."""
    elastic: bool = False
    """True if a step has the same rows with any number of processes, so that a phase resumes with another number; may depend
    on the config. Since 0.1."""
    optimizer_settings: Sequence[str] | None = None
    """Settings of its default optimizer, refused in a phase with an `optimizer`. None if it does not train with the
    phase's `optimizer`, which is then refused."""

    @hook(needed=True)
    def kdtool_train(self, run: RunInfo, phase: Phase, student: LanguageModel) -> Trained:
        """Train the student in place for `phase.steps` steps, resuming from `phase.checkpoints`; on every rank.

        After a kill, that folder contains the committed files (`kdtool.commit`), unchanged, and nothing else.

        A phase that was killed at any time ends with the same weights, bit for bit on the same machine, and the same
        history: a checkpoint also holds the `state` of each weighting with `kdtool_balance`. Logged steps go to
        `kdtool_step_end`, `kdtool_progress` and the history; complete checkpoints to `kdtool_checkpoint`. A loss that
        breaks its contract raises a `PluginError` that names it. Parameters with `requires_grad` off do not change.
        Since 0.1.
        """
        raise NotImplementedError
