"""Attention maps: plain loops in float64, heads that differ, and what has no part in the value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_attention import AttentionMaps, _pairs, attention_distance
from torch import Tensor

FACTS = kdtool.ModelFacts(1000, 1000, 6, 8, 4, 2, 16, 50, 64, "float32", True, "t")
DOCUMENT = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1], [0, 0, 1, 1, 1, 1, 1, 1]])
LABELLED = torch.tensor([[1, 0, 1, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 0, 0, 1]]).bool()
SEEN = (DOCUMENT[:, :, None] == DOCUMENT[:, None, :]) & torch.ones(8, 8).tril().bool()


def maps(heads: int, seed: int) -> Tensor:
    scores = 2 * torch.randn(2, heads, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores.masked_fill(~SEEN[:, None], -torch.inf).softmax(-1)


def plain(student: Tensor, teacher: Tensor, groups: int) -> list[float]:
    """Loops over numbers; heads of the side that has more are averaged by their places."""

    def head(side: Tensor, b: int, g: int, t: int, s: int) -> float:
        each = side.shape[1] // groups
        return sum(float(side[b, g * each + i, t, s]) for i in range(each)) / each

    found = []
    for b in range(2):
        for t in range(8):
            if LABELLED[b, t]:
                own = [s for s in range(t + 1) if DOCUMENT[b, s] == DOCUMENT[b, t]]
                away = [head(student, b, g, t, s) - head(teacher, b, g, t, s) for g in range(groups) for s in own]
                found.append(sum(value * value for value in away) / groups)
    return found


@pytest.mark.parametrize(("mine", "theirs", "groups"), [(4, 4, 4), (2, 6, 2), (6, 3, 3), (1, 5, 1)])
def test_values_are_what_plain_loops_say(mine: int, theirs: int, groups: int) -> None:
    student, teacher = maps(mine, 0), maps(theirs, 1)
    found = attention_distance(student, teacher, DOCUMENT, LABELLED)
    assert found.tolist() == pytest.approx(plain(student, teacher, groups), rel=1e-12)


@pytest.mark.parametrize("heads", [2, 4])
def test_only_labelled_positions_and_what_they_see_have_a_part(heads: int) -> None:
    student, teacher = maps(4, 0), maps(heads, 1)
    part = (SEEN & LABELLED[:, :, None])[:, None]
    expected = attention_distance(student, teacher, DOCUMENT, LABELLED)
    mine, theirs = (side.masked_fill(~part, torch.nan).requires_grad_() for side in (student, teacher))
    found = attention_distance(mine, theirs, DOCUMENT, LABELLED)
    assert torch.equal(found, expected)
    for gradient in torch.autograd.grad(found.sum(), (mine, theirs)):
        assert not gradient[~part.expand_as(gradient)].any()
        assert gradient.isfinite().all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 400))
def test_it_is_within_bounds_and_blind_to_the_size_of_blocks(seed: int, values: int) -> None:
    student, teacher = maps(2, seed), maps(2, seed + 1)
    whole = attention_distance(student, teacher, DOCUMENT, LABELLED)
    assert (whole >= 0).all()
    assert (whole <= 2).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pairs, "BLOCK_VALUES", {"cpu": values})
        torch.testing.assert_close(attention_distance(student, teacher, DOCUMENT, LABELLED), whole)


def test_half_precision_gives_float32() -> None:
    student, teacher = maps(2, 0).bfloat16(), maps(2, 1).half()
    found = attention_distance(student, teacher, DOCUMENT, LABELLED)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), attention_distance(maps(2, 0), maps(2, 1), DOCUMENT, LABELLED), rtol=0.02, atol=0.01
    )


def loss(**given: Any) -> AttentionMaps:
    return AttentionMaps(AttentionMaps.Config(**given))


def test_heads_that_cannot_be_mapped_are_refused_before_training() -> None:
    teacher = replace(FACTS, heads=6)
    with pytest.raises(kdtool.UsageError, match=r"student has 4 heads and the teacher 6.*divides"):
        loss().kdtool_layers(FACTS, teacher)
    with pytest.raises(kdtool.UsageError, match="4 heads"):
        attention_distance(maps(4, 0), maps(6, 1), DOCUMENT, LABELLED)


def test_the_value_is_the_mean_over_pairs() -> None:
    component = loss(layers=(0, 2))
    batch = kdtool.Batch(LABELLED.long(), DOCUMENT, LABELLED.long() * 101 - 100, DOCUMENT, ("a", "b"))
    outputs = kdtool.ModelOutputs(torch.zeros(7, 8), attentions={0: maps(4, 0), 2: maps(4, 2)})
    signal = kdtool.Signal("t", attentions={0: maps(4, 1), 2: maps(4, 3)})
    pairs = tuple(component.kdtool_layers(FACTS, FACTS))
    view = kdtool.StepView(batch, outputs, signal, torch.tensor(0.0), torch.tensor(0), layers=pairs)
    each = [attention_distance(maps(4, i), maps(4, i + 1), DOCUMENT, LABELLED) for i in (0, 2)]
    assert torch.equal(component.kdtool_sequence_loss(view).values, (each[0] + each[1]) / 2)


def test_settings_and_calls_out_of_order_are_refused() -> None:
    with pytest.raises(kdtool.UsageError, match=r"attention\.layers is \[6\].*0 to 5"):
        loss(layers=(6,)).kdtool_layers(FACTS, FACTS)
    view = kdtool.StepView(None, None, kdtool.Signal("t"), torch.tensor(0.0), torch.tensor(0))  # type: ignore[arg-type]
    with pytest.raises(kdtool.PluginError, match="`layers`"):
        loss().kdtool_sequence_loss(view)
