"""A loss that asks for two passes of the student gets them, with the gradients of plain autograd; others pay nothing."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import torch.nn.functional as F
from kdtool_torch import collate
from kdtool_torch.inputs import RowsInOrder
from torch import Tensor
from trainer_models import (
    CONSISTENCY,
    HEADS,
    Blocks,
    Consistency,
    TinyModel,
    first_batch,
    first_gradients,
    full_logits,
    make_model,
    make_rows,
    train,
    train_terms,
    unmeasured,
    worst_difference,
)


class Noted(TinyModel):
    """Notes what torch's generator is at when a pass begins."""

    def __init__(self, blocks: Blocks, **head: Any) -> None:
        super().__init__(blocks, **head)
        self.began: list[Tensor] = []

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        self.began.append(torch.get_rng_state())
        return super().backbone(batch, want)


def noted(**options: Any) -> Noted:
    model = make_model(1, **{"dropout": 0.3, **options})
    return Noted(model.model, scale=model.scale, soft_cap=model.soft_cap)


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    kls = (F.kl_div(b, a, log_target=True, reduction="sum") for a, b in ((p, q), (q, p)))
    return sum(kls, torch.zeros(())) / 2


def oracle(student: TinyModel, began: list[Tensor], batch_size: int) -> tuple[dict[str, Tensor], list[list[Tensor]]]:
    """Return gradients of the first step by plain autograd, and the two passes' logits of each micro-batch.

    `began` says what the generator was at before each pass, so that the same is dropped.
    """
    student, teacher = copy.deepcopy(student), make_model(99)
    torch.manual_seed(0)
    projector = torch.nn.Linear(16, 16)
    order = RowsInOrder(make_rows(12), 4, 0)
    batches = [collate([order[place + i] for i in range(batch_size)]) for place in range(0, 4, batch_size)]
    count = sum((batch.labels != -100).sum() for batch in batches)
    logits = []
    for number, batch in enumerate(batches):
        asked = batch.labels != -100
        passes = []
        for state in began[2 * number : 2 * number + 2]:
            torch.set_rng_state(state)
            passes.append(student.model.states(batch))
        ours, theirs = passes[0], teacher.model.states(batch)
        z, second = (full_logits(student, states[-1])[asked] for states in passes)
        logits.append([z, second])
        t = full_logits(teacher, theirs[-1])[asked]
        kl = F.kl_div((z / 2).log_softmax(-1), (t / 2).log_softmax(-1), log_target=True, reduction="sum")
        ce = F.cross_entropy(z, batch.labels[asked], reduction="sum")
        hidden = (projector(ours[1][asked]) - theirs[1][asked]).square().mean(-1).sum()
        loss = 0.7 * 4 * kl + 0.3 * ce + 0.5 * hidden + 0.8 * symmetric_kl(z, second)
        (loss / count).backward()
    return {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}, logits


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (1, 4)])
@pytest.mark.parametrize("head", ["tied", "with bias, scale and cap"])
def test_gradients_equal_those_of_full_logits_of_both_passes(
    tmp_path: Path, head: str, batch: int, accumulation: int
) -> None:
    student = noted(**HEADS[head])
    before = copy.deepcopy(student)
    with first_gradients(student.model) as found, unmeasured():
        train(
            tmp_path, student, steps=1, batch=batch, accumulation=accumulation, twice=True,
            head_chunk_size=11, loss_chunk_size=5, gradient_clip=0.0,
        )  # fmt: skip
    training = student.began[2:]  # the first two are the self-test's
    assert len(training) == 2 * accumulation
    expected, ((first, second), *_) = oracle(before, training, batch)
    assert not first.equal(second)
    assert worst_difference(found, expected) < 1e-5


def test_the_student_runs_once_where_no_loss_asks_for_more(tmp_path: Path) -> None:
    student = noted()
    train(tmp_path, student, steps=2, accumulation=3)
    assert len(student.began) == 1 + 2 * 3 + 3 * 3, "norms, at the first step, take one for each term and micro-batch"


def run_with(folder: Path, student: TinyModel, loss: kdtool.Loss, term: kdtool.LossTerm = CONSISTENCY) -> None:
    terms = (kdtool.LossTerm("losses.ce", "ce", 1.0), term)
    train_terms(folder, terms, {term.name: loss}, student=student)


def test_a_student_without_dropout_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(
        kdtool.UsageError, match=r"^losses\.consistency: compares two passes.* no dropout.*lora"
    ) as caught:
        run_with(tmp_path, make_model(1), Consistency(Consistency.Config()))
    assert "leave this loss out" in str(caught.value)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_dropout_that_changes_nothing_yet_is_dropout(tmp_path: Path) -> None:
    """As in an adapter at its start, which adds zero whatever is dropped."""
    student = make_model(1, dropout=0.3)
    with torch.no_grad():
        for layer in student.model.layers:
            layer.weight.zero_(), layer.bias.zero_()
    run_with(tmp_path, student, Consistency(Consistency.Config()))


class OfTwo(kdtool.TokenLoss):
    """Applies a function to the chunk."""

    forward_passes = 2

    def __init__(self, function: Any) -> None:
        super().__init__(self.Config())
        self.function = function

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        values: Tensor = self.function(chunk.student_logits, chunk.second_logits)
        return values


MISTAKES: dict[str, tuple[Any, str]] = {
    "one pass alone": (lambda z, _: z.square().mean(-1), r"do not depend on chunk\.second_logits"),
    "the other alone": (lambda _, y: y.square().mean(-1), r"do not depend on chunk\.student_logits"),
    "its chunks": (lambda z, y: (z - y).square().mean(-1) / len(z), "depend on how positions are cut into chunks"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_loss_that_breaks_its_contract_is_explained_by_name(tmp_path: Path, mistake: str) -> None:
    function, message = MISTAKES[mistake]
    with pytest.raises(kdtool.PluginError, match=message) as caught:
        run_with(tmp_path, make_model(1, dropout=0.3), OfTwo(function))
    assert "consistency" in str(caught.value)


def test_both_passes_are_cut_to_the_tokens_that_are_shared(tmp_path: Path) -> None:
    widths: set[tuple[int, int]] = set()

    def apart(first: Tensor, second: Tensor) -> Tensor:
        widths.add((first.shape[1], second.shape[1]))
        return (first - second).square().mean(-1)

    run_with(tmp_path, make_model(1, dropout=0.3), OfTwo(apart), replace(CONSISTENCY, shared=50))
    assert widths == {(50, 50)}


def test_a_sequence_loss_is_given_both_passes_and_learns_through_both(tmp_path: Path) -> None:
    class Apart(kdtool.SequenceLoss):
        forward_passes = 2

        def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
            assert view.second is not None
            return kdtool.PerToken((view.student.last - view.second.last).square().sum(-1))

    student = noted()
    plain = copy.deepcopy(student)
    terms, loss = [kdtool.LossTerm("losses.apart", "apart", 1.0, forward_passes=2)], Apart(Apart.Config())
    with first_gradients(student.model) as found:
        train_terms(tmp_path, terms, {"losses.apart": loss}, student=student, steps=1, batch=4, gradient_clip=0.0)
    last = []
    for state in student.began[2:]:
        torch.set_rng_state(state)
        last.append(plain.backbone(first_batch(), kdtool.SignalRequest()).last)
    (last[0] - last[1]).square().sum(-1).mean().backward()  # type: ignore[no-untyped-call]
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
