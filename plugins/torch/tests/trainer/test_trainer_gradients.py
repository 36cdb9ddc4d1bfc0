"""Gradients of the whole trainer against plain autograd on full logits in float64, which shares no code with it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import torch.nn.functional as F
from kdtool_testing import make_run
from kdtool_torch.inputs import MicroBatch
from kdtool_torch.objective import Objective, Sizes
from kdtool_torch.terms import bind_terms
from torch import Tensor
from trainer_models import (
    CONSISTENCY,
    HEADS,
    KEYS,
    KL,
    MIXTURE,
    VOCABULARY,
    Keys,
    TinyModel,
    TinyTeacher,
    Turns,
    first_batch,
    first_gradients,
    full_logits,
    make_model,
    make_phase,
    make_rows,
    mixture,
    reports_of,
    train,
    train_terms,
    worst_difference,
)


def oracle(student: TinyModel, rows: int) -> dict[str, Tensor]:
    """Return the gradients of the mixture's first step, over all its rows at once, in float64."""
    student, teacher = copy.deepcopy(student), copy.deepcopy(make_model(99))
    student.model.double(), teacher.model.double()
    torch.manual_seed(0)
    projector = torch.nn.Linear(16, 16).double()
    batch = first_batch(rows)
    ours, theirs = student.model.states(batch), teacher.model.states(batch)
    asked = batch.labels != -100
    z, t = full_logits(student, ours[-1])[asked], full_logits(teacher, theirs[-1])[asked]
    count = asked.sum()
    kl = F.kl_div((z / 2).log_softmax(-1), (t / 2).log_softmax(-1), log_target=True, reduction="sum") / count
    ce = F.cross_entropy(z, batch.labels[asked], reduction="sum") / count
    hidden = (projector(ours[1][asked]) - theirs[1][asked]).square().mean(-1).sum() / count
    (0.7 * 4 * kl + 0.3 * ce + 0.5 * hidden).backward()
    return {name: p.grad for name, p in student.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("head", HEADS)
def test_gradients_equal_those_of_full_logits(tmp_path: Path, head: str) -> None:
    """Other cuts of a step, with all installed losses, are in the repository's test_losses_against_reference."""
    student = make_model(1, **HEADS[head])
    expected = oracle(student, 4)
    with first_gradients(student.model) as found:
        train(
            tmp_path,
            student,
            steps=1,
            batch=2,
            accumulation=2,
            head_chunk_size=11,
            loss_chunk_size=5,
            gradient_clip=0.0,
        )
    assert worst_difference(found, expected) < 1e-5


@pytest.mark.parametrize("head", HEADS)
def test_shorter_shared_vocabulary_is_that_of_truncated_logits(tmp_path: Path, head: str) -> None:
    shared, student = 50, make_model(1, **HEADS[head])
    oracle, teacher = copy.deepcopy(student), copy.deepcopy(make_model(99))
    oracle.model.double(), teacher.model.double()
    batch = first_batch()
    asked = batch.labels != -100
    z = full_logits(oracle, oracle.model.states(batch)[-1])[asked]
    t = full_logits(teacher, teacher.model.states(batch)[-1])[asked]
    q, p = ((logits[:, :shared] / 2).log_softmax(-1) for logits in (z, t))
    kl = F.kl_div(q, p, log_target=True, reduction="sum") / asked.sum()
    ce = F.cross_entropy(z, batch.labels[asked])  # the text's own tokens are all the student's
    (0.7 * 4 * kl + 0.3 * ce).backward()  # type: ignore[no-untyped-call]
    expected = {name: p.grad for name, p in oracle.model.named_parameters() if p.grad is not None}

    terms = (replace(MIXTURE[0], shared=shared), MIXTURE[1])
    cut: dict[str, Any] = {"batch": 4, "head_chunk_size": 11, "loss_chunk_size": 5, "gradient_clip": 0.0}
    with first_gradients(student.model) as found:
        source = TinyTeacher(make_model(99), vocabulary=shared)
        train_terms(tmp_path, terms, student=student, teacher=source, steps=1, **cut)
    assert worst_difference(found, expected) < 1e-5


class WholeKL(kdtool.SequenceLoss):
    """The same divergence from the head that a sequence loss is given."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        assert view.head is not None
        assert view.teacher is not None
        assert view.teacher.lazy is not None
        q = (view.head.logits(view.student.last) / 2).log_softmax(-1)
        with torch.no_grad():
            p = (view.teacher.lazy.head.logits(view.teacher.lazy.hidden) / 2).log_softmax(-1)
        return kdtool.PerToken((p.exp() * (p - q)).sum(-1))


@pytest.mark.slow
@pytest.mark.parametrize("shared", [None, 50])
@pytest.mark.parametrize("head", HEADS)
def test_sequence_losses_come_to_the_same_logits(tmp_path: Path, head: str, shared: int | None) -> None:
    found = []
    for loss in (KL, WholeKL):
        student, components = make_model(1, **HEADS[head]), {"losses.kl": loss(KL.Config())}
        terms = (replace(MIXTURE[0], shared=shared), MIXTURE[1])
        source = TinyTeacher(make_model(99), vocabulary=shared or VOCABULARY)
        options: dict[str, Any] = {"student": student, "teacher": source, "steps": 1, "batch": 4, "gradient_clip": 0.0}
        with first_gradients(student.model) as gradients:
            train_terms(tmp_path / loss.__name__, terms, components, **options)
        found.append(gradients)
    assert worst_difference(found[1], {name: gradient.double() for name, gradient in found[0].items()}) < 1e-5


class KLByHand(KL):
    """The same with a gradient of its own, for logits alone."""

    asked = 0

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor] | None:
        self.asked += 1
        if not isinstance(chunk.teacher, kdtool.DenseTokens):
            return None
        q, p = ((logits.float() / 2).softmax(-1) for logits in (chunk.student_logits, chunk.teacher.logits))
        return self.kdtool_token_loss(chunk), q.sub_(p).div_(2)


class ThirdTokens(kdtool.Weighting):
    """Counts every third token for more."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return 0.5 + (chunk.positions % 3) / 2


@pytest.mark.parametrize(
    ("shared", "top_k", "twice", "weighed"),
    [(None, 0, False, False), (50, 0, True, True), (None, 8, False, True)],
    ids=["plain", "shared, of two passes, weighed", "None for top-k"],
)
def test_a_gradient_by_hand_trains_as_that_of_autograd(
    tmp_path: Path, shared: int | None, top_k: int, twice: bool, weighed: bool
) -> None:
    """Beside terms without one; to rounding."""
    found = []
    for loss in (KL(KL.Config()), KLByHand(KL.Config())):
        student, components = make_model(1, soft_cap=3.0), dict[str, Any]({"losses.kl": loss})
        student.model.dropout = Turns() if twice else student.model.dropout
        components |= {"weightings.third": ThirdTokens(ThirdTokens.Config())} if weighed else {}
        terms = (replace(MIXTURE[0], shared=shared), MIXTURE[1], *([CONSISTENCY] if twice else []))
        source = TinyTeacher(make_model(99), top_k=top_k, vocabulary=shared or VOCABULARY)
        folder, given = tmp_path / type(loss).__name__, dict[str, Any]({"student": student, "teacher": source})
        given |= {"batch": 4, "head_chunk_size": 11, "loss_chunk_size": 5, "learning_rate": 1e-2}
        train_terms(folder, terms, components, **given)
        first, *_, last = (report["terms"]["kl"] for report in reports_of(folder))
        found.append((dict(student.model.named_parameters()), last["value"], first["gradient_norm"]))
    assert isinstance(loss, KLByHand)
    assert loss.asked > 20
    (plain, *figures), (by_hand, *others) = found
    assert others == pytest.approx(figures, rel=1e-4)
    for name, weight in plain.items():
        torch.testing.assert_close(by_hand[name], weight, rtol=1e-4, atol=1e-5, msg=name)


def test_signal_over_other_tokens_than_the_term_says_is_refused(tmp_path: Path) -> None:
    terms = (replace(MIXTURE[0], shared=50),)
    words = "teacher has logits of 61 tokens, but the student's are compared over 50"
    with pytest.raises(kdtool.UsageError, match=words):
        train_terms(tmp_path, terms, teacher=TinyTeacher(make_model(99)))


def test_bfloat16_is_as_near_as_its_rounding_allows(tmp_path: Path) -> None:
    student = make_model(1)
    expected = oracle(student, 4)
    with first_gradients(student.model) as found:
        trained = train(tmp_path, student, steps=1, dtype="bfloat16", gradient_clip=0.0)
    assert trained.dtype == "bfloat16"
    assert worst_difference(found, expected) < 5e-2


def module_of(folder: Path) -> tuple[Objective, kdtool.Batch, Any]:
    batch = first_batch()
    signals = {"teacher": TinyTeacher(make_model(99), layers=(0,)).signal(batch)}
    run = make_run(folder, mixture(project=False))
    phase = kdtool.Phase("p", 1, MIXTURE[:2], make_rows(12), {}, folder)
    sizes = Sizes(torch.float32, head_chunk_size=11, loss_chunk_size=5, rows_per_step=4)
    module = Objective(run, phase, make_model(1), sizes).bind(bind_terms(run, phase, signals))
    module.set_step(1, 0.0, [0.7 * 4, 0.3])
    return module, batch, signals


def test_the_student_is_asked_for_what_its_teachers_are_asked_for_in_paired_layers(tmp_path: Path) -> None:
    signals = {"teacher": TinyTeacher(make_model(99), layers=(1,), inside="projections")}
    phase = make_phase(tmp_path, (KEYS, MIXTURE[1]), signals, steps=6)
    assert phase.student_request == kdtool.SignalRequest(frozenset({"projections"}), (1,))
    assert replace(phase, terms=MIXTURE[:2]).student_request == kdtool.SignalRequest()
    options: dict[str, Any] = {"teacher": signals["teacher"], "steps": 6, "batch": 4, "learning_rate": 1e-2}
    trained = train_terms(tmp_path, phase.terms, {"losses.keys": Keys(Keys.Config())}, **options)
    first, *_, last = (report["terms"]["keys"] for report in reports_of(tmp_path))
    assert first["gradient_norm"] > 0
    assert last["value"] < first["value"]
    assert not trained.notes


def test_a_loss_of_layers_alone_leaves_no_weight_without_a_gradient(tmp_path: Path) -> None:
    """Among several processes, each waits for all of them."""
    student = make_model(1, tied=False, bias=True)
    with first_gradients(student.model) as found:
        train_terms(tmp_path, MIXTURE[2:], student=student, teacher=TinyTeacher(make_model(99), layers=(0,)), steps=1)
    assert found.keys() == {name for name, _ in student.model.named_parameters()}
    assert not found["head.weight"].any()
    assert found["layers.0.weight"].any()


def test_a_second_backward_is_refused(tmp_path: Path) -> None:
    module, batch, signals = module_of(tmp_path)
    loss = module(MicroBatch(batch, signals), torch.tensor(10))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass only"):
        loss.backward()


def test_a_frozen_head_gets_no_gradient_and_others_the_same(tmp_path: Path) -> None:
    gradients = []
    for learns in (True, False):
        student = make_model(1, tied=False)
        student.model.head.weight.requires_grad_(learns)
        with first_gradients(student.model) as found:
            train(tmp_path / str(learns), student, steps=1, gradient_clip=0.0)
        gradients.append(found)
    (expected, found) = gradients
    assert "head.weight" not in found
    del expected["head.weight"]
    assert worst_difference(found, {name: gradient.double() for name, gradient in expected.items()}) == 0
