"""The loss on whole steps: its suite, plain loops in float64, any chunks, what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_preference import DirectPreference, preference_loss
from kdtool_testing import SequenceLossConformance
from kdtool_torch import collate, numerics
from torch import Tensor

VOCABULARY, WIDTH = 11, 5


class TestPreference(SequenceLossConformance):
    component = DirectPreference
    entry_point = "preference"

    def columns(self, labels: Tensor) -> Mapping[str, Tensor]:
        return {"rejected": (torch.arange(labels.shape[1]) >= 3).expand(labels.shape).long()}


def loss(**config: float) -> DirectPreference:
    return DirectPreference(DirectPreference.Config(**config))


def values(view: kdtool.StepView, **config: float) -> Tensor:
    found: Any = loss(**config).kdtool_sequence_loss(view)
    assert isinstance(found, kdtool.PerSequence)
    return found.values


def pair(key: str, prompt: int, chosen: int, rejected: int, *, swapped: bool = False) -> kdtool.Row:
    """A row of a pair with answers of so many tokens."""
    sizes = (rejected, chosen) if swapped else (chosen, rejected)
    generator = torch.Generator().manual_seed(sum(key.encode()))
    first = torch.randint(VOCABULARY, (prompt + chosen,), generator=generator).tolist()
    ids = [first, [*first[:prompt], *torch.randint(VOCABULARY, (rejected,), generator=generator).tolist()]]
    document = [number for number, size in enumerate(sizes) for _ in range(prompt + size)]
    labelled = [place >= prompt for size in sizes for place in range(prompt + size)]
    marks = [1 - number if swapped else number for number in document]
    padding = 40 - len(document)
    tokens = [token for document_ids in (ids[::-1] if swapped else ids) for token in document_ids]
    return kdtool.Row(
        key,
        tokens + [0] * padding,
        labelled + [False] * padding,
        document + [-1] * padding,
        {"rejected": marks + [0] * padding},
    )


def head_of(seed: int) -> kdtool.Head:
    """A head with padding, bias, scale and cap."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(VOCABULARY + 2, WIDTH, generator=generator, dtype=torch.float64)
    return kdtool.Head(
        weight, VOCABULARY, torch.randn(VOCABULARY + 2, generator=generator, dtype=torch.float64), 0.7, 4.0
    )


def view_of(*rows: kdtool.Row, seed: int = 0) -> kdtool.StepView:
    """A step of random student and reference in float64."""
    batch = collate(rows)
    generator = torch.Generator().manual_seed(seed)
    count = int((batch.labels != -100).sum())
    own, other = (torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    signal = kdtool.Signal("t", kdtool.LazyLogits(other, head_of(seed + 1)))
    head = head_of(seed)
    for learnt in (own, head.weight):
        learnt.requires_grad_()
    return kdtool.StepView(batch, kdtool.ModelOutputs(own), signal, torch.tensor(0.5), torch.tensor(3), head=head)


def likelihoods(hidden: Tensor, head: kdtool.Head, labels: list[int]) -> list[float]:
    """Return log-likelihoods by plain loops."""
    assert head.bias is not None
    assert head.soft_cap is not None
    found = []
    weight, bias = head.weight.tolist(), head.bias.tolist()
    for state, label in zip(hidden.tolist(), labels, strict=True):
        logits = []
        for token in range(VOCABULARY):
            z = head.scale * (sum(w * h for w, h in zip(weight[token], state, strict=True)) + bias[token])
            logits.append(head.soft_cap * math.tanh(z / head.soft_cap))
        found.append(logits[label] - math.log(sum(map(math.exp, logits))))
    return found


def plain_margins(view: kdtool.StepView) -> list[float]:
    """Return each row's margin by plain loops over its tokens."""
    assert view.head is not None
    assert view.teacher is not None
    assert view.teacher.lazy is not None
    places = [
        (row, label, int(view.batch.columns["rejected"][row, place]))
        for row, labels in enumerate(view.batch.labels.tolist())
        for place, label in enumerate(labels)
        if label != -100
    ]
    labels = [label for _, label, _ in places]
    own = likelihoods(view.student.last, view.head, labels)
    other = likelihoods(view.teacher.lazy.hidden, view.teacher.lazy.head, labels)
    found = [0.0] * len(view.batch.labels)
    for (row, _, rejected), mine, theirs in zip(places, own, other, strict=True):
        found[row] += (theirs - mine) if rejected else (mine - theirs)
    return found


answers = st.integers(1, 7)
pairs = st.lists(st.tuples(st.integers(1, 6), answers, answers, st.booleans()), min_size=1, max_size=3)


@given(pairs, st.integers(0, 9), st.floats(0.05, 3))
def test_it_is_what_plain_loops_say(sizes: list[tuple[int, int, int, bool]], seed: int, beta: float) -> None:
    rows = [pair(f"row{number}", *size, swapped=swapped) for number, (*size, swapped) in enumerate(sizes)]
    view = view_of(*rows, seed=seed)
    expected = [math.log1p(math.exp(-beta * m)) for m in plain_margins(view)]
    assert values(view, beta=beta).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("elements", [1, 30, 100])
def test_chunks_change_no_value_and_no_gradient(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(pair("a", 3, 5, 4), pair("b", 2, 1, 7))
    assert view.head is not None
    learnt = (view.student.last, view.head.weight)
    whole = values(view)
    gradients = torch.autograd.grad(whole.sum(), learnt)
    monkeypatch.setattr(numerics, "elements_at_once", lambda _: elements)
    cut = values(view)
    torch.testing.assert_close(cut, whole)
    for mine, theirs in zip(torch.autograd.grad(cut.sum(), learnt), gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_its_gradient_is_right() -> None:
    view = view_of(pair("a", 2, 3, 2))

    def of(states: Tensor, weight: Tensor) -> Tensor:
        assert view.head is not None
        head = replace(view.head, weight=weight)
        return values(replace(view, student=kdtool.ModelOutputs(states), head=head), beta=1.0)

    assert view.head is not None
    assert torch.autograd.gradcheck(of, (view.student.last, view.head.weight))


def test_rows_without_pairs_are_refused_with_what_to_set() -> None:
    view = view_of(pair("a", 2, 3, 4))
    single = {"rejected": torch.zeros_like(view.batch.labels)}
    for columns, found in (({}, "mark no token as rejected"), (single, "answers of one kind only")):
        with pytest.raises(kdtool.UsageError, match=rf"{found}: set `rows: \{{use: pairs\}}`"):
            values(replace(view, batch=replace(view.batch, columns=columns)))


def test_margins_of_any_size_have_a_finite_loss_and_gradient_in_float32() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        extreme = torch.tensor([-1e6, 0, 1e6], dtype=dtype).requires_grad_()
        found = preference_loss(extreme, 1.0)
        (gradient,) = torch.autograd.grad(found.sum(), extreme)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert gradient.tolist() == pytest.approx([-1, -0.5, 0])
