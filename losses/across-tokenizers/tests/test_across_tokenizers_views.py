"""All losses on whole steps: any chunks, nothing to compare, memory, what is refused; certain and impossible texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import kdtool
import pytest
import torch
from cut_steps import OTHER, OWN, projected_kl, span_likelihood, uld
from cut_texts import Document, Greedy, values_of, view_of
from kdtool_loss_across_tokenizers import Classes, span_divergence
from kdtool_loss_across_tokenizers import projected_kl as plain_projected_kl
from kdtool_torch import numerics
from torch import Tensor

each_loss = pytest.mark.parametrize(
    "loss",
    [
        uld(temperature=1.5),
        projected_kl(temperature=1.5),
        span_likelihood(),
        span_likelihood(temperature=1.0),
        span_likelihood(debias=0.2),
    ],
)


def gradients(loss: kdtool.SequenceLoss, view: kdtool.StepView) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, and gradients by states and head of a sum that weighs each position otherwise."""
    assert view.head is not None
    values = values_of(loss, view)
    weighed = (values * torch.arange(1, len(values) + 1)).sum()
    by_states, by_head = torch.autograd.grad(weighed, (view.student.last, view.head.weight))
    return values.detach(), by_states, by_head


@each_loss
@pytest.mark.parametrize("other", [OTHER, None], ids=["two tokenizers", "one"])
def test_gradients_are_right_however_it_is_cut(
    loss: kdtool.SequenceLoss, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of(OWN, other)
    whole = gradients(loss, view)
    monkeypatch.setattr(numerics, "elements_at_once", lambda _: 30)  # one position at a time, or two
    for found, expected in zip(gradients(loss, view), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert view.head is not None
    assert not whole[2][view.head.vocabulary :].any(), "padding learns nothing"

    def values(states: Tensor, weight: Tensor) -> Tensor:
        assert view.head is not None
        head = replace(view.head, weight=weight)
        return values_of(loss, replace(view, student=kdtool.ModelOutputs(states), head=head))

    assert torch.autograd.gradcheck(values, (view.student.last, view.head.weight))


@each_loss
@pytest.mark.parametrize("own", [[[Document((0, 3))]], [[Document((0, 3, 4))]]], ids=["no labels", "no meeting"])
def test_without_a_meeting_everything_still_has_a_gradient(loss: kdtool.SequenceLoss, own: Any) -> None:
    """Processes that train together wait for each other's gradients."""
    view = view_of(own, [[Document((0, 1, 4) if len(own[0][0].cuts) > 2 else (0, 3))]])
    values, states, weight = gradients(loss, view)
    assert not values.any()
    assert states.shape == view.student.last.shape
    assert not weight.any()


@each_loss
def test_a_signal_of_inference_mode_and_half_precision_work(loss: kdtool.SequenceLoss) -> None:
    view = view_of(OWN, OTHER, plain=True)
    assert view.head is not None
    assert view.teacher is not None
    assert view.teacher.lazy is not None
    expected = values_of(loss, view)
    with torch.inference_mode():
        hidden = view.teacher.lazy.hidden.bfloat16()
        weight = view.teacher.lazy.head.weight.bfloat16()
    lazy = kdtool.LazyLogits(hidden, replace(view.teacher.lazy.head, weight=weight))
    states, own = view.student.last.detach().float().requires_grad_(), view.head.weight.detach().float()
    half = replace(
        view,
        student=kdtool.ModelOutputs(states),
        head=replace(view.head, weight=own.requires_grad_()),
        teacher=replace(view.teacher, lazy=lazy),
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = values_of(loss, half)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0.1, atol=0.05)
    assert own.grad is not None
    assert own.grad.isfinite().all()


def most_alive(work: Callable[[], object]) -> int:
    """Return the most bytes of tensors alive at once during some work, beside those alive before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    kineto: Any = profile.profiler.kineto_results
    changes = [(e.start_ns(), e.nbytes()) for e in kineto.events() if e.name() == "[memory]"]
    alive = most = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        alive += change
        most = max(most, alive)
    return most


MANY = Greedy(*(number.to_bytes(2) for number in range(6998)))


@pytest.mark.parametrize("loss", [uld(), projected_kl(), span_likelihood(), span_likelihood(debias=1e-9)])
def test_memory_does_not_grow_with_positions_times_tokens(
    loss: kdtool.SequenceLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight times the positions: 20 MB more of each tensor of logits, if they were all there."""
    monkeypatch.setattr(numerics, "elements_at_once", lambda _: 2**16)
    monkeypatch.setattr(loss, "tokenizers", (MANY, MANY), raising=False)
    found = []
    for count in (100, 800):
        view = view_of([[Document(tuple(range(count + 2)))]], [[Document(tuple(range(count + 2)))]], plain=True)
        assert view.teacher is not None
        assert view.teacher.lazy is not None
        heads = [kdtool.Head(torch.randn(7000, width), 7000) for width in (5, 7)]
        heads[0].weight.requires_grad_()
        lazy = kdtool.LazyLogits(view.teacher.lazy.hidden.float(), heads[1])
        states = view.student.last.detach().float().requires_grad_()
        view = replace(
            view, student=kdtool.ModelOutputs(states), head=heads[0], teacher=replace(view.teacher, lazy=lazy)
        )
        found.append(most_alive(lambda view=view: values_of(loss, view).sum().backward()))  # type: ignore[misc, no-untyped-call]
    assert found[1] - found[0] < 1_000_000
    assert found[0] < 12 * 4 * 2**16 + 8 * 4 * 7000 * 5


@pytest.mark.parametrize(
    ("name", "loss"), [("uld", uld()), ("projected-kl", projected_kl()), ("span-likelihood", span_likelihood())]
)
def test_what_is_missing_is_named(name: str, loss: kdtool.SequenceLoss) -> None:
    """Other things that may be missing are in kdtool-torch's test_logits."""
    with pytest.raises(kdtool.PluginError, match=f"^{name} .*this trainer passes sequence losses no head"):
        loss.kdtool_sequence_loss(replace(view_of(OWN, OTHER), head=None))


@pytest.mark.parametrize("tau", [1.0, 100.0])
def test_certain_and_impossible_spans_stay_finite(tau: float) -> None:
    worst = [0.0, -1e-9, -1.0, -200.0, -1e5]
    student = torch.tensor(worst * 6).requires_grad_()
    teacher = torch.tensor([value for value in [*worst, -math.inf] for _ in worst])
    found = span_divergence(student, teacher, tau)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_class_that_the_student_excludes_still_has_a_gradient() -> None:
    """In float32, where its probability, e^-200, is 0."""
    classes = Classes(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    student = torch.tensor([[0.0, -200.0]]).requires_grad_()
    found = plain_projected_kl(student, torch.zeros(1, 2), classes)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(100 - math.log(2))
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([0.5, -0.5])
