"""Likelihoods against plain loops, whatever the chunks; what is not there is said."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing import batch_of
from kdtool_torch import Side, both_sides, in_chunks, log_likelihood, numerics

numbers = st.lists(st.floats(-8, 8), min_size=1, max_size=7)


def side(count: int) -> Side:
    generator = torch.Generator().manual_seed(count)
    weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((9, 4), (9,)))
    states = torch.randn(count, 4, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(7, (count,), generator=generator)
    return Side(states, labels, kdtool.Head(weight.requires_grad_(), 7, bias, 0.7, 4.0))


@given(numbers, st.integers(0, 6))
def test_log_likelihoods_are_what_plain_loops_say(values: list[float], label: int) -> None:
    label %= len(values)
    found = log_likelihood(torch.tensor([values], dtype=torch.float64), torch.tensor([label])).item()
    expected = values[label] - math.log(sum(map(math.exp, values)))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("elements", [1, 20, 2**23])
@pytest.mark.parametrize("count", [0, 1, 8])
def test_chunks_change_no_value_and_no_gradient(count: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "elements_at_once", lambda _: elements)
    own = side(count)
    learnt = (own.states, own.head.weight)
    plain = own.head.logits(own.states).log_softmax(-1).gather(-1, own.labels[:, None])[:, 0]
    found = own.likelihoods()
    torch.testing.assert_close(found, plain)
    ways = torch.arange(count, dtype=torch.float64) - 2
    for mine, theirs in zip(*(torch.autograd.grad((v * ways).sum(), learnt) for v in (found, plain)), strict=True):
        torch.testing.assert_close(mine, theirs)
    picked = torch.arange(count).flip(0)[: count // 2]
    torch.testing.assert_close(own.likelihoods(picked), plain[picked])


def test_no_slice_is_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "elements_at_once", lambda _: 30)
    seen: list[int] = []

    def values(part: slice) -> torch.Tensor:
        seen.append(part.stop - part.start)
        return torch.arange(part.start, part.stop)

    assert in_chunks(values, 10, 7).tolist() == list(range(10))
    assert seen == [4, 4, 2]


def test_chunks_grow_with_a_gpu_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for memory in (2**30, 24 * 2**30, 80 * 2**30):
        properties = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, properties=properties: properties)
        sizes.append(numerics.elements_at_once(torch.device("cuda", 0)))
    assert sizes[0] == numerics.elements_at_once(torch.device("cpu")) < sizes[1] < sizes[2] == 2**27
    assert 10 * 4 * sizes[1] <= 24 * 2**30 / 16


def view() -> kdtool.StepView:
    batch = batch_of([kdtool.Row("a", [1, 2, 3], [True] * 3, [0] * 3)])
    student, teacher = side(2), side(2)
    signal = kdtool.Signal("t", kdtool.LazyLogits(teacher.states, teacher.head))
    nothing = torch.tensor(0.0)
    return kdtool.StepView(batch, kdtool.ModelOutputs(student.states), signal, nothing, nothing, head=student.head)


def test_the_teacher_has_no_gradient_and_the_student_has() -> None:
    student, teacher = both_sides(view(), "surprise")
    assert student.labels.tolist() == teacher.labels.tolist() == [2, 3]
    assert student.likelihoods().requires_grad
    assert not teacher.likelihoods().requires_grad


def test_what_is_not_there_is_said_with_the_loss_s_name() -> None:
    whole = view()
    for lacking, message in (
        (replace(whole, head=None), "surprise compares logits, but this trainer passes .* no head"),
        (replace(whole, teacher=None), "surprise compares with a teacher's logits"),
        (replace(whole, student=kdtool.ModelOutputs(torch.zeros(3, 4))), "the student's states are of 3 positions"),
    ):
        with pytest.raises(kdtool.PluginError, match=message):
            both_sides(lacking, "surprise")
