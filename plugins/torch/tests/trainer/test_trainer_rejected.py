"""Rejected text: losses of single tokens leave it out, in value, gradient, norm and divisor; losses of rows see all of it.

Against plain autograd on full logits in float64, which shares no code with the trainer.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import torch.nn.functional as F
from kdtool_testing import ListSource
from kdtool_torch import collate
from torch import Tensor
from trainer_models import (
    LENGTH,
    MIXTURE,
    TinyModel,
    TinyTeacher,
    first_batch,
    first_gradients,
    full_logits,
    make_model,
    make_rows,
    mixture,
    reports_of,
    train_terms,
)

WHOLE = kdtool.LossTerm("losses.whole", "whole", 0.2)
PLACES = 4
LABELS = ("kl", "ce", "hidden", "whole")


class Whole(kdtool.SequenceLoss):
    """A row's mean square of states, at every labelled position."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerSequence:
        labelled = view.batch.labels != -100
        squares = view.student.last.new_zeros(labelled.shape)
        squares[labelled] = view.student.last.square().mean(-1)
        return kdtool.PerSequence(squares.sum(1))


def rows_with_rejected() -> ListSource:
    """Two documents a row, of which the second is rejected."""
    rows = make_rows(12).rows
    return ListSource([replace(row, columns={"rejected": [int(one == 1) for one in row.document]}) for row in rows])


def oracle(student: TinyModel) -> tuple[dict[str, float], dict[str, float], dict[str, Tensor]]:
    """Return values, gradient norms and the gradients of the first step over all its rows at once, in float64."""
    student, teacher = copy.deepcopy(student), copy.deepcopy(make_model(99))
    student.model.double(), teacher.model.double()
    batch = first_batch(PLACES, rows_with_rejected())
    ours, theirs = student.model.states(batch), teacher.model.states(batch)
    asked = batch.labels != -100
    kept = asked & (batch.document == 0)
    z, t = full_logits(student, ours[-1])[kept], full_logits(teacher, theirs[-1])[kept]
    count = int(kept.sum())
    assert 0 < count < int(asked.sum())
    kl = F.kl_div((z / 2).log_softmax(-1), (t / 2).log_softmax(-1), log_target=True, reduction="sum") / count
    terms = {
        "kl": (0.7, 4 * kl),
        "ce": (0.3, F.cross_entropy(z, batch.labels[kept], reduction="sum") / count),
        "hidden": (0.5, (ours[1][kept] - theirs[1][kept]).square().mean(-1).sum() / count),
        "whole": (0.2, (ours[-1].square().mean(-1) * asked).sum() / PLACES),
    }
    norms = {}  # at the embedding's output, which all terms share where one compares layers
    for name, (weight, value) in terms.items():
        (gradient,) = torch.autograd.grad(weight * value, ours[0], retain_graph=True)
        norms[name] = float(gradient.norm())
    sum(weight * value for weight, value in terms.values()).backward()
    found = {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, (_, value) in terms.items()}, norms, found


def first_step(folder: Path, student: TinyModel, **settings: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the first report and the gradients of the first step."""
    components = {**mixture(project=False), "losses.whole": Whole(Whole.Config())}
    options: dict[str, Any] = {
        "student": student,
        "teacher": TinyTeacher(make_model(99), layers=(0,)),
        "rows": rows_with_rejected(),
    }
    with first_gradients(student.model) as gradients:
        train_terms(folder, (*MIXTURE, WHOLE), components, steps=1, gradient_clip=0.0, **options, **settings)
    return reports_of(folder)[0], gradients


SLOW = (pytest.mark.slow, pytest.mark.filterwarnings("ignore"))  # compilers' own warnings
STEPS = [
    pytest.param({"batch": 4}, id="one batch"),
    pytest.param(
        {"batch": 1, "accumulation": 4, "head_chunk_size": 5, "loss_chunk_size": 3}, id="accumulated, in chunks"
    ),
    pytest.param({"batch": 4, "loss_chunk_size": 8, "compile": "on"}, id="compiled", marks=SLOW),
]


@pytest.mark.parametrize("settings", STEPS)
def test_tokens_of_rejected_text_are_left_out(tmp_path: Path, settings: dict[str, Any]) -> None:
    student = make_model(1)
    values, norms, expected = oracle(student)
    report, found = first_step(tmp_path, student, **settings)
    for name in LABELS:
        assert report["terms"][name]["value"] == pytest.approx(values[name], rel=1e-5), name
    if settings["batch"] == 4:  # of several micro-batches, norms are of each apart
        for name in LABELS:
            assert report["terms"][name]["gradient_norm"] == pytest.approx(norms[name], rel=1e-4), name
    batch = first_batch(PLACES, rows_with_rejected())
    assert report["tokens"] == int(((batch.labels != -100) & (batch.document == 0)).sum())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].double(), gradient, atol=1e-6, rtol=1e-4)


def test_a_row_with_nothing_to_imitate_is_no_error(tmp_path: Path) -> None:
    rows = [replace(row, columns={"rejected": [int(i > 0)] * LENGTH}) for i, row in enumerate(make_rows(4).rows)]
    losses, given = {"losses.whole": Whole(Whole.Config())}, ListSource(rows)
    trained = train_terms(tmp_path, (MIXTURE[1], WHOLE), losses, steps=1, rows=given, batch=1, accumulation=4)
    assert trained.tokens == int((collate(rows[:1]).labels != -100).sum())
