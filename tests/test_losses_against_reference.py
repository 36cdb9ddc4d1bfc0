"""Every installed loss, however a step is cut, has the gradient of a plain formula on full logits in float64.

Cut into chunks of one position, of five, and none; into one and four micro-batches; between one and two processes. With
weights, schedules, powers of the temperature, balance and token weights on the way. The reference (`reference_losses`)
shares no code with the engine or the losses. Only here are all of them together; what a trainer does beside gradients is in
its own tests.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import kdtool
import pytest
import torch
from kdtool_torch import collate
from reference_losses import ELSEWHERE, FORMULAS, SHRINKS, Compared
from reference_model import Attentive, make_model, make_rows, told_tokens
from reference_training import FACTOR, STUDENT, TEACHER, Cut, cases, token_weights, train_as_rank, train_each, weight_at
from torch import Tensor
from two_processes import read_gradients, train_in_two_processes

Gradients = list[dict[str, Tensor]]
CUTS = [Cut(chunk, accumulation, 1) for chunk in (1, 5, 0) for accumulation in (1, 4)]
CUTS_OF_TWO = [Cut(cut.chunk, cut.accumulation, 2) for cut in CUTS]


def test_every_installed_loss_has_a_formula() -> None:
    found = {point.name for point in entry_points(group="kdtool.losses")}
    assert found == FORMULAS.keys() | ELSEWHERE.keys(), "write it as a formula in reference_losses.py"


@pytest.fixture(scope="module")
def expected() -> Gradients:
    """The gradients of all terms together, and of each by itself, of all rows at once in float64."""
    batch = collate([make_rows()[number] for number in range(8)])
    student, teacher = (make_model(*model).model.double() for model in (STUDENT, TEACHER))
    compared = _compared(batch, student, teacher)
    steps, means = len(cases()) + 1, {}
    for label, (loss, term) in cases().items():
        told = None if term.teacher in (None, "dense") else told_tokens(compared.labels, term.teacher)
        values = FORMULAS[label.rpartition("-")[0] if term.teacher != "top-k" else label.removesuffix("-top-k")](
            Compared(**{**vars(compared), "pairs": term.layers, "told": told})
        )
        per_token = isinstance(loss, kdtool.TokenLoss)
        weights = (
            token_weights(batch.positions[batch.labels != -100]) if per_token else torch.ones(len(compared.labels))
        )
        scale = loss.temperature ** (SHRINKS.get(label.rpartition("-")[0], 2) if loss.temperature_power else 0)
        means[label] = scale * (weights * values).sum() / weights.sum()
    weighed = [weight_at(term, 1, steps) * means[label] for label, (_, term) in cases().items()]
    alone = [
        FACTOR * weight_at(term, step, steps) * means[label]
        for step, (label, (_, term)) in enumerate(cases().items(), 2)
    ]
    return [_gradients(objective, student) for objective in (torch.stack(weighed).sum(), *alone)]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.name)
def test_gradients_of_one_process(tmp_path: Path, expected: Gradients, cut: Cut) -> None:
    _compare(train_each(tmp_path, cut), expected)


def test_gradients_that_autograd_finds(tmp_path: Path, expected: Gradients) -> None:
    _compare(train_each(tmp_path, Cut(5, 1, 1), by_hand=False), expected)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes, started once, wrote the gradients of all cuts into."""
    folder = tmp_path_factory.mktemp("two")
    train_in_two_processes(train_as_rank, folder, CUTS_OF_TWO)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS_OF_TWO, ids=lambda cut: cut.name)
def test_gradients_of_two_processes(of_two: Path, expected: Gradients, cut: Cut) -> None:
    _compare(read_gradients(of_two / f"{cut.name}.safetensors"), expected)


def _compared(batch: kdtool.Batch, student: Attentive, teacher: Attentive) -> Compared:
    asked = batch.labels != -100
    own, second, other = student(batch), student(batch), teacher(batch)
    first, again = (student.logits(seen.last)[asked] for seen in (own, second))
    told = teacher.logits(other.last)[asked].detach()
    return Compared(batch, first, again, told, batch.labels[asked], own, other, ())


def _gradients(objective: Tensor, student: Attentive) -> dict[str, Tensor]:
    names, parameters = zip(*student.named_parameters(), strict=True)
    found = torch.autograd.grad(objective, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def _compare(found: Gradients, expected: Gradients) -> None:
    assert len(found) == len(expected)
    wrong = {}
    for label, ours, theirs in zip(["all together", *cases()], found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        whole = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
        assert whole > 1e-4, f"{label} teaches nothing here"
        for name, gradient in theirs.items():
            away = (ours[name].double() - gradient).norm()
            if not away <= 1e-4 * gradient.norm() + 1e-6 * whole:
                wrong[f"{label}, {name}"] = float(away / gradient.norm())
    assert not wrong
