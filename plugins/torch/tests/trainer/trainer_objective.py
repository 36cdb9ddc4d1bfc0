"""A phase for `Objective` with every kind of loss, in this process or as one of several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import torch
from kdtool_testing import ListSource, make_run
from kdtool_testing.phase import TERMS, companions, make_phase
from kdtool_testing.toy.runtime import toy_model
from kdtool_torch.objective import Objective
from torch import Tensor, nn
from trainer_process import as_rank

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


def prepare(folder: Path, weighs: bool, **ranks: Any) -> tuple[kdtool.RunInfo, kdtool.Phase, Lengths]:
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
        make_run(folder, parts, say=lambda _: None, **ranks),
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


def evaluate_as_rank(folder: Path, rank: int, world: int, port: int) -> None:
    """Write the gradients and reports of each step by `Objective`, added up over ranks, as one of several processes."""
    with as_rank(rank, world, port):
        torch.distributed.init_process_group("gloo")
        run, phase, lengths = prepare(folder / str(rank), weighs=True, rank=rank, world=world)
        student, found = make_student(), list[Any]()
        objective = Objective(run, phase, student)
        for step in range(1, STEPS + 1):
            objective.zero_grad()
            for loss, _ in objective.losses([[row] for row in range(rank, ROWS, world)], step):
                loss.backward()  # type: ignore[no-untyped-call]
            gradients = gradients_of(student, lengths)
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
            found.append((gradients, {name: report.value for name, report in (objective.state.reports or {}).items()}))
        torch.save(found, folder / f"{rank}.pt")
