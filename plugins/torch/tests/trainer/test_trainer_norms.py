"""Gradient norms of all terms are taken at one place, so that they can be compared; against autograd in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trainer_models import (
    CONSISTENCY,
    MIXTURE,
    TinyModel,
    TinyTeacher,
    Turns,
    first_batch,
    full_logits,
    make_model,
    reports_of,
    train,
    train_terms,
)


def report_norms(folder: Path, terms: Any, student: TinyModel, **settings: Any) -> dict[str, float]:
    """Return the norms that are reported of the first step."""
    teacher = TinyTeacher(make_model(99), layers=(0,))
    train_terms(
        folder, terms, student=student, teacher=teacher, steps=1, gradient_clip=0.0, loss_chunk_size=7, **settings
    )
    return {label: term["gradient_norm"] for label, term in reports_of(folder)[0]["terms"].items()}


def compute_norms(student: TinyModel, rows: int, at: str) -> dict[str, float]:
    """Return the norms of the weighed terms' gradients by the states `at` "embedding" or "last", by plain autograd."""
    teacher = make_model(99)
    student.model.double(), teacher.model.double()
    torch.manual_seed(0)
    projector = torch.nn.Linear(16, 16).double()
    batch = first_batch(rows)
    asked = batch.labels != -100
    ours, theirs = student.model.states(batch), teacher.model.states(batch)
    place = {"embedding": ours[0], "last": ours[-1]}[at]
    z, t = full_logits(student, ours[-1])[asked], full_logits(teacher, theirs[-1])[asked]
    p = (t / 2).softmax(-1).detach()
    terms: dict[str, Tensor] = {
        "kl": 0.7 * 4 * (p * (p.log() - (z / 2).log_softmax(-1))).sum(-1).mean(),
        "ce": 0.3 * F.cross_entropy(z, batch.labels[asked]),
        "hidden": 0.5 * (projector(ours[1][asked]) - theirs[1][asked].detach()).square().mean(),
    }
    if at == "last":
        del terms["hidden"]
    return {name: float(torch.autograd.grad(term, place, retain_graph=True)[0].norm()) for name, term in terms.items()}


@pytest.mark.parametrize(("terms", "at"), [(MIXTURE, "embedding"), (MIXTURE[:2], "last")])
@pytest.mark.parametrize("frozen", [False, True])
def test_they_are_taken_at_the_embedding_where_a_term_compares_layers_else_at_the_last_states(
    tmp_path: Path, terms: Any, at: str, frozen: bool
) -> None:
    """Three rows have 50 labels or so, of which none is left out."""
    student = make_model(1, tied=False)
    student.model.embedding.weight.requires_grad_(not frozen)
    found = report_norms(tmp_path, terms, student, batch=3)
    assert found == pytest.approx(compute_norms(make_model(1, tied=False), 3, at), rel=1e-4)


def test_some_rows_stand_for_all(tmp_path: Path) -> None:
    """Of twelve rows some are looked at; what they say is scaled to all."""
    found = report_norms(tmp_path, MIXTURE, make_model(1, tied=False), batch=12)
    assert found == pytest.approx(compute_norms(make_model(1, tied=False), 12, "embedding"), rel=0.5)


def test_two_passes_count_together(tmp_path: Path) -> None:
    student = make_model(1, tied=False)
    student.model.dropout = Turns()
    found = report_norms(tmp_path, (MIXTURE[2], replace(CONSISTENCY, weight=1.0)), student, batch=3)
    assert all(norm > 0 for norm in found.values())


class _OneBackward(torch.autograd.Function):
    """Identity whose backward overwrites what it saved, as Liger's kernels do."""

    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        ctx.kept = torch.ones_like(states)
        return states.clone()

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> Tensor:
        found: Tensor = incoming * ctx.kept
        ctx.kept.zero_()
        return found


class OneBackward(torch.nn.Module):
    """The identity, for one backward pass."""

    def forward(self, states: Tensor) -> Tensor:
        result: Tensor = _OneBackward.apply(states)  # type: ignore[no-untyped-call]
        return result


@pytest.mark.parametrize(
    ("student", "other", "settings"),
    [
        ({}, OneBackward(), ({"gradient_norms_every": 1}, {"gradient_norms_every": 1})),
        ({"dropout": 0.2}, None, ({"gradient_norms_every": 1}, {"gradient_norms_every": 1000})),
    ],
    ids=["kernels that allow one backward pass", "norms taken at each step or not"],
)
def test_taking_norms_does_not_change_training(
    tmp_path: Path, student: dict[str, Any], other: torch.nn.Module | None, settings: tuple[dict[str, Any], ...]
) -> None:
    weights = []
    for number, each in enumerate(settings):
        model = make_model(1, **student)
        if number and other is not None:
            model.model.dropout = other
        train(tmp_path / str(number), model, steps=4, **each)
        weights.append(model.model.state_dict())
    assert all(weight.equal(weights[1][name]) for name, weight in weights[0].items())
