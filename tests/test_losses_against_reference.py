"""Every installed loss, however a step is cut, has the gradient of its own values at all positions at once in float64.

Cut into chunks of one position, of five, and none; into one and four micro-batches; between one and two processes. With
weights, schedules, powers of the temperature, balance and token weights on the way. The reference shares no code with the
engine; that a loss's values are right is in its own tests. Only here are all of them together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_torch import collate
from reference_model import Attentive, AttentiveModel, Source, make_model, make_rows
from reference_training import (
    ALL_KINDS,
    FACTOR,
    STUDENT,
    TEACHER,
    TEMPERATURE,
    Cut,
    cases,
    token_weights,
    train_as_rank,
    train_each,
    weight_at,
)
from torch import Tensor
from two_processes import read_gradients, train_in_two_processes

Gradients = list[dict[str, Tensor]]
CUTS = [Cut(chunk, accumulation, 1) for chunk in (1, 5, 0) for accumulation in (1, 4)]
CUTS_OF_TWO = [Cut(cut.chunk, cut.accumulation, 2) for cut in CUTS]


@pytest.fixture(scope="module")
def expected() -> Gradients:
    """The gradients of all terms together, and of each by itself, of all rows at once in float64."""
    batch = collate([make_rows()[number] for number in range(8)])
    student, teacher = (make_model(*model) for model in (STUDENT, TEACHER))
    facts = student.facts, teacher.facts
    for model in (student.model, teacher.model):
        model.double()
    steps, means = len(cases()) + 1, {}
    for label, (loss, term) in cases().items():
        source = Source(
            teacher,
            kdtool.SignalRequest(ALL_KINDS, tuple(theirs for _, theirs in term.layers)),
            term.teacher or "dense",
            TEMPERATURE,
        )
        values = _values(loss, term, batch, student, source.signal(batch), facts)
        per_token = isinstance(loss, kdtool.TokenLoss)
        weights = token_weights(batch.positions[batch.labels != -100]) if per_token else torch.ones(len(values))
        means[label] = loss.temperature**loss.temperature_power * (weights * values).sum() / weights.sum()
    weighed = [weight_at(term, 1, steps) * means[label] for label, (_, term) in cases().items()]
    alone = [
        FACTOR * weight_at(term, step, steps) * means[label]
        for step, (label, (_, term)) in enumerate(cases().items(), 2)
    ]
    return [_gradients(objective, student.model) for objective in (torch.stack(weighed).sum(), *alone)]


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


def _values(
    loss: kdtool.Loss,
    term: kdtool.LossTerm,
    batch: kdtool.Batch,
    student: AttentiveModel,
    told: kdtool.Signal,
    facts: tuple[kdtool.ModelFacts, kdtool.ModelFacts],
) -> Tensor:
    """Return a loss's values at all labelled positions, or of all rows, at once."""
    want = kdtool.SignalRequest(ALL_KINDS, tuple(ours for ours, _ in term.layers))
    first, second = (student.backbone(batch, want) for _ in range(2))
    asked, zero = batch.labels != -100, torch.zeros(())
    if isinstance(loss, kdtool.SequenceLoss):
        torch.manual_seed(0)  # as the trainer seeds it
        module = loss.kdtool_modules(*facts)
        projector = module.double() if module else None
        about = told, zero, zero.long(), None, student.head, second, term.layers, projector
        return loss.kdtool_sequence_loss(kdtool.StepView(batch, first, *about)).values
    assert isinstance(loss, kdtool.TokenLoss)
    tokens: Any = told.sparse
    if told.lazy:
        tokens = kdtool.DenseTokens(told.lazy.head.logits(told.lazy.hidden))
    columns = {name: column[asked] for name, column in batch.columns.items()}
    logits, again = (student.model.logits(outputs.last) for outputs in (first, second))
    where = batch.positions[asked], loss.temperature, zero, zero.long(), columns, again
    return loss.kdtool_token_loss(kdtool.TokenChunk(logits, batch.labels[asked], tokens, *where))


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
