"""`kdtool_torch.Objective`, from which other trainers are written, has the gradients of this trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kdtool_torch.objective import Objective
from kdtool_torch.trainer import StandardTrainer
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from trainer_objective import ROWS, STEPS, evaluate_as_rank, gradients_of, make_student, prepare
from trainer_process import start_ranks


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
    """Return the gradients of each step by `Objective`."""
    run, phase, lengths = prepare(folder, weighs)
    student, found, size = make_student(), list[list[Tensor]](), ROWS // accumulation
    objective = Objective(run, phase, student)
    for step in range(1, STEPS + 1):
        objective.zero_grad()
        for loss, _ in objective.losses([range(first, first + size) for first in range(0, ROWS, size)], step):
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


def test_two_processes_have_the_gradients_and_reports_of_one(tmp_path: Path) -> None:
    expected = train(tmp_path / "standard", 1, weighs=True)
    assert start_ranks(evaluate_as_rank, 2, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for of_step, (gradients, reports), (_, others) in zip(expected, first, second, strict=True):
        torch.testing.assert_close(gradients, of_step, rtol=1e-5, atol=1e-6)
        assert reports == others
