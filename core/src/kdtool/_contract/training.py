"""Students, transforms of a student during a phase, trainers with the phase that they train, and optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kdtool._contract.component import Component, hook
from kdtool._contract.data import RowSource
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import LanguageModel, Runtime, Tokenizer
from kdtool._contract.run_info import LossTerm, RunInfo, Saving, TermReport
from kdtool._contract.signals import SignalRequest
from kdtool._contract.sources import SignalSource

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer as TorchOptimizer


class Student(Component):
    """The model that learns, before training."""

    kind = "student"
    uses_seed: bool = True
    """True if `kdtool_build_student` depends on `run.seed`; otherwise all seeds share one build."""
    pretrained: bool = False
    """True if it starts from weights that work already: they are measured, too, as the subject "base"."""

    @hook(needed=True)
    def kdtool_tokenizer(self, run: RunInfo) -> Tokenizer:
        """Return the tokenizer, without loading weights. Since 0.1."""
        raise NotImplementedError

    @hook(needed=True)
    def kdtool_build_student(self, run: RunInfo) -> LanguageModel:
        """Build the untrained student, with the facts of `kdtool_describe`.

        Called once per seed (or once, see `uses_seed`), on rank 0, and saved: it opens again with the same logits.
        Since 0.1.
        """
        raise NotImplementedError

    @hook(first=True)
    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        """Open a saved student or control, trained or not ("base"), from its folder `subject.path`; None for other subjects.

        On every rank; the caller closes the runtime. Since 0.1.
        """


class Transform(Component):
    """Changes a student at a phase's start and finishes at its end: adapters, quantisation-aware training, compile."""

    kind = "transform"
    saves_memory: Saving | None = None
    """Settings and their costs, if `kdtool check` may propose it for a run that does not fit."""
    on_meta_device: bool = False
    """True if `kdtool_transform` also works on weights without values, on torch's device "meta": `kdtool check` calls it to
    count what learns and what is kept for backward. Otherwise the check assumes that it changes neither."""

    def kdtool_transform(
        self, student: LanguageModel, run: RunInfo
    ) -> Iterator[LanguageModel | None] | LanguageModel | None:
        """Change the student before a phase; in the order of the recipe, each on the result of the previous one.

        Return the changed student; None stands for the argument. A transform that finishes after the phase yields it
        instead, once: the code after the `yield` merges adapters or converts weights, in reverse order. Then `student`, the
        argument, can be saved, keeps the training, and has its original parameters trainable again for the next phase.

        A resumed phase repeats this and then reads its checkpoint: the parameters' names and shapes must be the same each
        time. Frozen parameters have `requires_grad` off. On every rank; if `on_meta_device`, also for `kdtool check`, once
        per phase and only up to the `yield`. After an exception in the phase, the code after the `yield` does not run.
        Since 0.1.
        """


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


class Optimizer(Component):
    """Makes the torch optimizer of a phase. Learning rate, schedule, clipping and checkpoints are the trainer's."""

    kind = "optimizer"
    state_bytes: float = 8.0
    """Bytes of its state for each trained number, for `kdtool check`; AdamW keeps two averages in float32."""
    divisible: bool = True
    """False if it cannot update weights that are divided among processes (`DTensor`s): sharding is then refused."""

    @hook(needed=True)
    def kdtool_optimizer(self, run: RunInfo, parameters: Mapping[str, Tensor], learning_rate: float) -> TorchOptimizer:
        """Return a `torch.optim.Optimizer` of exactly these parameters, in groups as it likes.

        `parameters` are those that learn, by name, on their device; those of the student are named as in its model. A
        group's `lr` is its peak, usually `learning_rate`: the trainer multiplies it by the factor of its schedule at every
        step. The state of a parameter consists of tensors and numbers, by name. A resumed phase calls this again, and loads
        what `state_dict` returned. Called once a phase, on every rank. Since 0.1.
        """
        raise NotImplementedError
