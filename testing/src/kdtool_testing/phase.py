"""A small phase of training for the suite of trainers: rows, a teacher's signals, losses of every form, weightings.

Torch is imported when a method is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtool import (
    Batch,
    Component,
    Config,
    DenseTokens,
    LazyLogits,
    LossTerm,
    ModelFacts,
    PerToken,
    Phase,
    RunInfo,
    Schedule,
    SequenceLoss,
    Signal,
    SignalRequest,
    StepReport,
    StepView,
    Teacher,
    TermReport,
    TokenChunk,
    TokenLoss,
    Tracker,
    Weighting,
)

from kdtool_testing.model_checks import pack_rows
from kdtool_testing.toy import ByteTokenizer, ListSource
from kdtool_testing.toy.runtime import toy_model

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

TERMS = (
    LossTerm("losses.likelihood", "likelihood", 0.5),
    LossTerm(
        "losses.divergence", "divergence", Schedule(0.5, 1.0), 2.0, 4.0, "teacher", (frozenset({"logits"}),), True
    ),
    LossTerm("losses.states", "states", 0.3, 1.0, 1.0, "teacher", (frozenset({"hidden"}),), False, ((0, 0),)),
)


def make_phase(folder: Path, steps: int, rows: int = 8, terms: tuple[LossTerm, ...] = TERMS) -> Phase:
    """Return a phase on small rows; its checkpoints lie below `folder`."""
    texts = [f"def f{i}(x):\n    return x * {i}\n" for i in range(max(rows, 1))]
    found = pack_rows(ByteTokenizer(), 32, texts)
    source = ListSource(found)
    source.rows = found[:rows]
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return Phase(
        "distil", steps, terms, source, {"teacher": FrozenTeacher()}, folder / "checkpoints", ("weightings.balance",)
    )


def companions() -> dict[str, Component]:
    """Return the losses, the weightings and the teacher of the phase, by the names that its terms have."""
    return {
        "teacher": Describing(Config()),
        "losses.likelihood": Likelihood(Config()),
        "losses.divergence": Divergence(Config()),
        "losses.states": States(Config()),
        "weightings.first": Early(Config()),
        "weightings.balance": Running(Config()),
    }


class FrozenTeacher:
    """The signals of a toy model, as a `SignalSource`."""

    want = SignalRequest(frozenset({"logits", "hidden"}), (0,))

    @cached_property
    def _model(self) -> Any:
        model = toy_model(99)
        model.model.eval().requires_grad_(False)
        return model

    def signal(self, batch: Batch, chosen: object = None) -> Signal:
        """Return what is wanted of a batch."""
        import torch

        self._model.model.to(batch.input_ids.device)
        with torch.no_grad():
            outputs = self._model.backbone(batch, self.want)
        return Signal("toy", LazyLogits(outputs.last, self._model.head), hidden=outputs.hidden)


class CutTeacher(FrozenTeacher):
    """The same over only its first tokens."""

    def __init__(self, shared: int) -> None:
        self.shared = shared

    def signal(self, batch: Batch, chosen: object = None) -> Signal:
        """Return what is wanted of a batch."""
        signal = super().signal(batch)
        if signal.lazy is None:
            raise TypeError("logits are wanted")
        return replace(signal, lazy=replace(signal.lazy, head=replace(signal.lazy.head, vocabulary=self.shared)))


class Describing(Teacher):
    """Knows its shapes."""

    def kdtool_describe(self, run: RunInfo) -> ModelFacts:
        return toy_model(99).facts


class Widths(TokenLoss):
    """Forward KL that remembers how many tokens it was given of student and teacher."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen: set[tuple[int, int]] = set()

    def kdtool_token_loss(self, chunk: TokenChunk) -> Tensor:
        if not isinstance(chunk.teacher, DenseTokens):
            raise TypeError(f"the teacher's logits are expected, not {chunk.teacher!r}")
        self.seen.add((chunk.student_logits.shape[1], chunk.teacher.logits.shape[1]))
        p = chunk.teacher.logits.float().log_softmax(-1)
        return (p.exp() * (p - chunk.student_logits.float().log_softmax(-1))).sum(-1)


class Beside(SequenceLoss):
    """Mean square of the student's last states; records the views of the steps."""

    same_vocabulary = False
    needs = "hidden"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.views: list[StepView] = []

    def kdtool_sequence_loss(self, view: StepView) -> PerToken:
        self.views.append(view)
        return PerToken(view.student.last.float().square().mean(-1))


class Twice(TokenLoss):
    """Squared difference of two passes' logits; remembers how many tokens each had, and how far apart they were."""

    forward_passes = 2

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen: list[tuple[tuple[int, int], float]] = []

    def kdtool_token_loss(self, chunk: TokenChunk) -> Tensor:
        if chunk.second_logits is None:
            raise TypeError("the logits of a second pass are expected")
        apart = (chunk.student_logits.float() - chunk.second_logits.float()).square().mean(-1)
        widths = chunk.student_logits.shape[1], chunk.second_logits.shape[1]
        self.seen.append((widths, float(apart.detach().mean())))
        return apart


class Likelihood(TokenLoss):
    """Cross-entropy."""

    def kdtool_token_loss(self, chunk: TokenChunk) -> Tensor:
        if chunk.second_logits is not None:
            raise TypeError("a second pass is for losses that ask for it")
        return -chunk.student_logits.float().log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0]


class Divergence(TokenLoss):
    """Forward KL at temperature 2."""

    needs = "logits"
    temperature_power = 2
    divergence = True
    temperature = 2.0

    def kdtool_token_loss(self, chunk: TokenChunk) -> Tensor:
        if not isinstance(chunk.teacher, DenseTokens):
            raise TypeError(f"the teacher's logits are expected, not {chunk.teacher!r}")
        p = (chunk.teacher.logits.float() / chunk.temperature).log_softmax(-1)
        q = (chunk.student_logits.float() / chunk.temperature).log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)


class States(SequenceLoss):
    """Distance of hidden states through a projector that trains along."""

    needs = "hidden"

    def kdtool_modules(self, student: ModelFacts, teacher: ModelFacts) -> Module:
        import torch

        return torch.nn.Linear(student.hidden, teacher.hidden)

    def kdtool_sequence_loss(self, view: StepView) -> PerToken:
        if view.teacher is None or view.module is None:
            raise TypeError("the teacher's hidden states and the projector are expected")
        return PerToken((view.module(view.student.hidden[0]) - view.teacher.hidden[0]).float().square().mean(-1))


class Early(Weighting):
    """Counts the first tokens of a document a little more."""

    def kdtool_token_weight(self, chunk: TokenChunk) -> Tensor:
        return 1.05 - 0.1 * (chunk.positions > 6).float()


class Running(Weighting):
    """Balances by running means: what a resumed phase must know."""

    def kdtool_balance(self, terms: Mapping[str, TermReport], step: int, state: dict[str, Any]) -> Mapping[str, float]:
        for name, term in terms.items():
            state[name] = 0.7 * state.get(name, term.value) + 0.3 * term.value
        total = sum(state.values())
        return {name: 0.5 + mean / total for name, mean in state.items()}


class BrokenLoss(TokenLoss):
    """Gives, instead of cross-entropy, what a function makes of it."""

    def __init__(self, spoil: Any) -> None:
        super().__init__(self.Config())
        self._spoil = spoil

    def kdtool_token_loss(self, chunk: TokenChunk) -> Tensor:
        values: Tensor = self._spoil(Likelihood(self.config).kdtool_token_loss(chunk))
        return values


class Watcher(Tracker):
    """Records the events of training, and interrupts after the checkpoint of a given number, counted from 1."""

    def __init__(self, dies_after: int = 0, then_steps: int = 0) -> None:
        super().__init__(self.Config())
        self._dies_after = dies_after
        self._then_steps = then_steps
        self.checkpoints: list[int] = []
        self.reports: list[StepReport] = []
        self.progress: list[int] = []

    def kdtool_checkpoint(self, run: RunInfo, path: Path, step: int) -> None:
        self.checkpoints.append(step)
        self._perhaps_die()

    def kdtool_step_end(self, run: RunInfo, report: StepReport) -> None:
        self.reports.append(report)
        self._perhaps_die()

    def kdtool_progress(self, run: RunInfo, done: int, total: int | None) -> None:
        self.progress.append(done)

    def _perhaps_die(self) -> None:
        if self._dies_after and len(self.checkpoints) >= self._dies_after:
            if self._then_steps == 0:
                raise KeyboardInterrupt
            self._then_steps -= 1
