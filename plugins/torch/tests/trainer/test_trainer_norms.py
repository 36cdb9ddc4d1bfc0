"""Gradient norms of all terms are taken at one place, so that they can be compared; against autograd in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kdtool_testing import make_run
from kdtool_torch import collate
from kdtool_torch.inputs import RowsInOrder
from torch import Tensor
from trainer_models import (
    CONSISTENCY,
    MIXTURE,
    VOCABULARY,
    TinyModel,
    TinyTeacher,
    Turns,
    make_model,
    make_phase,
    make_rows,
    make_trainer,
    mixture,
)


def report_norms(folder: Path, terms: Any, student: TinyModel, **settings: Any) -> dict[str, float]:
    """Return the norms that are reported of the first step."""
    phase = make_phase(folder, terms, {"teacher": TinyTeacher(make_model(99), layers=(0,))}, steps=1)
    run = make_run(folder / "run", mixture(), say=lambda _: None)
    trained = make_trainer(gradient_clip=0.0, loss_chunk_size=7, **settings).kdtool_train(run, phase, student)
    assert trained is not None
    (line,) = trained.history.read_text("utf-8").splitlines()
    return {label: term["gradient_norm"] for label, term in json.loads(line)["terms"].items()}


def compute_norms(student: TinyModel, rows: int, at: str) -> dict[str, float]:
    """Return the norms of the weighed terms' gradients by the states `at` "embedding" or "last", by plain autograd."""
    teacher = make_model(99)
    student.model.double(), teacher.model.double()
    torch.manual_seed(0)
    projector = torch.nn.Linear(16, 16).double()
    batch = collate([RowsInOrder(make_rows(12), rows, 0)[place] for place in range(rows)])
    asked = batch.labels != -100
    ours, theirs = student.model.states(batch), teacher.model.states(batch)
    place = {"embedding": ours[0], "last": ours[-1]}[at]
    z, t = (
        F.linear(s[-1], m.model.head.weight)[..., :VOCABULARY][asked] for s, m in ((ours, student), (theirs, teacher))
    )
    p = (t / 2).softmax(-1).detach()
    terms: dict[str, Tensor] = {
        "kl": 0.7 * 4 * (p * (p.log() - (z / 2).log_softmax(-1))).sum(-1).mean(),
        "ce": 0.3 * F.cross_entropy(z, batch.labels[asked]),
        "hidden": 0.5 * (projector(ours[1][asked]) - theirs[1][asked].detach()).square().mean(),
    }
    if at == "last":
        del terms["hidden"]
    return {name: float(torch.autograd.grad(term, place, retain_graph=True)[0].norm()) for name, term in terms.items()}


def test_all_are_taken_at_the_embedding_where_a_term_compares_layers(tmp_path: Path) -> None:
    """Three rows have 50 labels or so, of which none is left out."""
    found = report_norms(tmp_path, MIXTURE, make_model(1, tied=False), batch=3)
    assert found == pytest.approx(compute_norms(make_model(1, tied=False), 3, "embedding"), rel=1e-4)


def test_frozen_embeddings_make_no_difference(tmp_path: Path) -> None:
    student = make_model(1, tied=False)
    student.model.embedding.weight.requires_grad_(False)
    found = report_norms(tmp_path, MIXTURE, student, batch=3)
    assert found == pytest.approx(compute_norms(make_model(1, tied=False), 3, "embedding"), rel=1e-4)


def test_they_are_taken_at_the_last_states_where_none_does(tmp_path: Path) -> None:
    found = report_norms(tmp_path, MIXTURE[:2], make_model(1), batch=3)
    assert found == pytest.approx(compute_norms(make_model(1), 3, "last"), rel=1e-4)


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


def test_kernels_that_allow_one_backward_pass_train_the_same(tmp_path: Path) -> None:
    weights = []
    for name, layer in (("plain", torch.nn.Identity()), ("once", OneBackward())):
        student, folder = make_model(1), tmp_path / name
        student.model.dropout = layer
        phase = make_phase(folder, MIXTURE, {"teacher": TinyTeacher(make_model(99), layers=(0,))}, steps=2)
        run = make_run(folder / "run", mixture(), say=lambda _: None)
        make_trainer(gradient_norms_every=1).kdtool_train(run, phase, student)
        weights.append(student.model.state_dict())
    assert all(weight.equal(weights[1][name]) for name, weight in weights[0].items())


def test_a_phase_trains_the_same_whether_norms_are_taken_or_not(tmp_path: Path) -> None:
    weights = []
    for every in (1, 1000):
        student, folder = make_model(1, dropout=0.2), tmp_path / str(every)
        phase = make_phase(folder, MIXTURE, {"teacher": TinyTeacher(make_model(99), layers=(0,))}, steps=4)
        run = make_run(folder / "run", mixture(), say=lambda _: None)
        make_trainer(gradient_norms_every=every).kdtool_train(run, phase, student)
        weights.append(student.model.state_dict())
    assert all(weight.equal(weights[1][name]) for name, weight in weights[0].items())
