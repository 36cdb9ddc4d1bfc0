"""Relations: plain loops in float64, widths and heads that differ, and what has no part in the value."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_attention import Relations, _pairs, relation_divergence
from torch import Tensor

FACTS = kdtool.ModelFacts(1000, 1000, 6, 24, 6, 3, 48, 50, 64, "float32", True, "t")
DOCUMENT = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1], [0, 0, 1, 1, 1, 1, 1, 1]])
LABELLED = torch.tensor([[1, 0, 1, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 0, 0, 1]]).bool()


def vectors(width: int, seed: int) -> Tensor:
    return 2 * torch.randn(2, 8, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(student: Tensor, teacher: Tensor, heads: int) -> list[float]:
    """Loops over numbers, as the paper writes it."""

    def relation(side: Tensor, b: int, a: int, t: int, own: list[int]) -> list[float]:
        d = side.shape[2] // heads
        products = [sum(float(side[b, t, a * d + i] * side[b, s, a * d + i]) for i in range(d)) for s in own]
        weights = [math.exp(product / math.sqrt(d)) for product in products]
        return [weight / sum(weights) for weight in weights]

    found = []
    for b in range(2):
        for t in range(8):
            if LABELLED[b, t]:
                own = [s for s in range(t + 1) if DOCUMENT[b, s] == DOCUMENT[b, t]]
                pairs = [(relation(teacher, b, a, t, own), relation(student, b, a, t, own)) for a in range(heads)]
                found.append(sum(p * math.log(p / q) for both in pairs for p, q in zip(*both, strict=True)) / heads)
    return found


@pytest.mark.parametrize(("mine", "theirs", "heads"), [(6, 6, 1), (6, 12, 3), (8, 4, 4), (4, 10, 2)])
def test_values_are_what_plain_loops_say(mine: int, theirs: int, heads: int) -> None:
    student, teacher = vectors(mine, 0), vectors(theirs, 1)
    found = relation_divergence(student, teacher, heads, DOCUMENT, LABELLED)
    assert found.tolist() == pytest.approx(plain(student, teacher, heads), rel=1e-10, abs=1e-12)


def test_what_comes_later_other_documents_and_padding_have_no_part() -> None:
    """Each labelled position alone: what is changed elsewhere, and the gradient there, is nothing to it."""
    student, teacher = vectors(6, 0), vectors(6, 1)
    for b, t in LABELLED.nonzero().tolist():
        only = torch.zeros_like(LABELLED)
        only[b, t] = True
        own = (DOCUMENT[b, t] == DOCUMENT) & (torch.arange(8) <= t) & (torch.arange(2) == b)[:, None]
        mine, theirs = (x.masked_fill(~own[:, :, None], torch.nan).requires_grad_() for x in (student, teacher))
        found = relation_divergence(mine, theirs, 2, DOCUMENT, only)
        assert torch.equal(found, relation_divergence(student, teacher, 2, DOCUMENT, only))
        for gradient in torch.autograd.grad(found.sum(), (mine, theirs)):
            assert not gradient[~own].any()
            assert bool(gradient[own].any()) == (len(gradient[own]) > 1)  # alone there is nothing to relate to


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([1, 2, 3, 6]))
def test_it_is_never_negative_and_blind_to_blocks_and_rotations(seed: int, values: int, heads: int) -> None:
    student, teacher = vectors(6, seed), vectors(6, seed + 1)
    whole = relation_divergence(student, teacher, heads, DOCUMENT, LABELLED)
    assert (whole > -1e-12).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pairs, "BLOCK_VALUES", {"cpu": values})
        torch.testing.assert_close(relation_divergence(student, teacher, heads, DOCUMENT, LABELLED), whole)
    # a rotation within each relation head keeps all products
    d = 6 // heads
    turn, _ = torch.linalg.qr(vectors(d, seed)[0, :d] if d > 1 else torch.ones(1, 1, dtype=torch.float64))
    turned = (student.reshape(2, 8, heads, d) @ turn).flatten(2)
    torch.testing.assert_close(relation_divergence(turned, teacher, heads, DOCUMENT, LABELLED), whole)


def test_scores_are_of_full_precision_under_autocast() -> None:
    student, teacher = vectors(16, 0).float() / 2, vectors(16, 1).float() / 2
    expected = relation_divergence(student.double(), teacher.double(), 1, DOCUMENT, LABELLED)
    with torch.autocast("cpu", torch.bfloat16):
        found = relation_divergence(student, teacher, 1, DOCUMENT, LABELLED)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    half = relation_divergence(student.bfloat16(), teacher.bfloat16(), 1, DOCUMENT, LABELLED)
    assert half.dtype == torch.float32


def test_memory_in_between_is_that_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autograd does not keep the relations until backward."""
    monkeypatch.setattr(_pairs, "BLOCK_VALUES", {"cpu": 64})
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    student = vectors(6, 0).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        relation_divergence(student, vectors(6, 1), 2, DOCUMENT, LABELLED)
    assert max(kept, default=0) <= student[0].numel()


def loss(**given: Any) -> Relations:
    return Relations(Relations.Config(**given))


def test_layers_are_the_last_or_those_that_are_named() -> None:
    teacher = replace(FACTS, layers=12)
    assert loss().kdtool_layers(FACTS, teacher) == ((5, 10),)
    copied = replace(FACTS, copied_layers=(0, 2, 4, 6, 8, 11))
    assert loss(layers=(0, 5)).kdtool_layers(copied, teacher) == ((0, 0), (5, 11))
    assert loss(layers=(0, 5), teacher_layers=(7, 11)).kdtool_layers(copied, teacher) == ((0, 7), (5, 11))
    for wrong in ({"layers": (6,)}, {"teacher_layers": (12,)}, {"teacher_layers": (1, 2)}, {"layers": ()}):
        with pytest.raises(kdtool.UsageError, match=r"relations\.(teacher_)?layers is \["):
            loss(**wrong).kdtool_layers(FACTS, teacher)
