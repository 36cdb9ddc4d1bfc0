"""`kdtool_torch.PhaseTerms`, from which other trainers are written, has the gradients of this trainer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import ListSource, make_run
from kdtool_testing.phase import TERMS, companions, make_phase
from kdtool_testing.toy.runtime import toy_model
from kdtool_torch import PhaseTerms
from kdtool_torch.trainer import StandardTrainer
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

STEPS, ROWS = 4, 8


class Lengths(kdtool.SequenceLoss):
    """One value per row, through a module that is the same each time it is made."""

    def kdtool_modules(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> nn.Module:
        self.module = nn.Linear(student.hidden, 1)
        nn.init.constant_(self.module.weight, 0.1)
        nn.init.zeros_(self.module.bias)
        return self.module

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerSequence:
        assert view.module is not None
        counts = (view.batch.labels != -100).sum(1).tolist()
        values = view.module(view.student.last.float())[:, 0].square().split(counts)
        return kdtool.PerSequence(torch.stack([of_row.sum() for of_row in values]))


class Drifting(kdtool.Weighting):
    """Weighs tokens by their position, the more the later the step: a step's mean is not that of the steps before it."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return 0.5 + chunk.positions * chunk.step / 10


def prepare(folder: Path, weighs: bool) -> tuple[kdtool.RunInfo, kdtool.Phase, Lengths]:
    """Return a phase with every kind of loss, rejected tokens in some rows, and perhaps a weighting of tokens."""
    lengths = Lengths(Lengths.Config())
    parts = {**companions(), "losses.lengths": lengths}
    del parts["weightings.first"]
    if weighs:
        parts["weightings.drifting"] = Drifting(Drifting.Config())
    phase = make_phase(folder, STEPS, ROWS)
    rejected = [[0] * (32 - 3 * number) + [1] * 3 * number for number in range(ROWS)]
    rows = [replace(phase.rows[number], columns={"rejected": rejected[number]}) for number in range(ROWS)]
    terms = (*TERMS[:2], kdtool.LossTerm("losses.lengths", "lengths", 0.2, teacher="teacher"))
    return (
        make_run(folder, parts, say=lambda _: None),
        replace(phase, rows=ListSource(rows), terms=terms),
        lengths,
    )


def make_student() -> kdtool.LanguageModel:
    """Return a student without dropout, which draws differently for each division of a step."""
    student = toy_model(1)
    for module in student.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return student


def gradients_of(student: kdtool.LanguageModel, lengths: Lengths) -> list[Tensor]:
    parameters = [*student.model.parameters(), *lengths.module.parameters()]
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def train(folder: Path, accumulation: int, weighs: bool) -> list[list[Tensor]]:
    """Return the gradients of each step of this trainer."""
    run, phase, lengths = prepare(folder, weighs)
    student, found = make_student(), list[list[Tensor]]()
    settings: dict[str, Any] = {"batch": ROWS // accumulation, "accumulation": accumulation, "learning_rate": 1e-30}
    settings |= {"weight_decay": 0.0, "gradient_clip": 0.0, "dtype": "float32", "compile": "off"}
    trainer = StandardTrainer(StandardTrainer.Config(**settings))
    handle = register_optimizer_step_pre_hook(lambda *_: found.append(gradients_of(student, lengths)))
    try:
        trainer.kdtool_train(run, phase, student)
    finally:
        handle.remove()
    return found


def evaluate(folder: Path, accumulation: int, weighs: bool) -> list[list[Tensor]]:
    """Return the gradients of each step by `PhaseTerms`."""
    run, phase, lengths = prepare(folder, weighs)
    student, found, size = make_student(), list[list[Tensor]](), ROWS // accumulation
    terms = PhaseTerms(run, phase, student)
    for step in range(1, STEPS + 1):
        student.model.zero_grad()
        terms.modules.zero_grad()
        for loss, _ in terms.losses([range(first, first + size) for first in range(0, ROWS, size)], step):
            loss.backward()  # type: ignore[no-untyped-call]
        found.append(gradients_of(student, lengths))
    return found


@pytest.mark.parametrize(("accumulation", "weighs"), [(1, False), (4, True)])
def test_gradients_are_the_same(tmp_path: Path, accumulation: int, weighs: bool) -> None:
    expected = train(tmp_path / "standard", accumulation, weighs)
    assert len(expected) == STEPS
    for cut in (1, 2, 8):
        found = evaluate(tmp_path / f"terms-{cut}", cut, weighs)
        for step, of_step in enumerate(expected):
            assert all(gradient.abs().max() > 1e-4 for gradient in of_step[-2:])
            torch.testing.assert_close(found[step], of_step, rtol=1e-5, atol=1e-6)
