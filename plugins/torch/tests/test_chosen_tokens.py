"""Log-probabilities of tokens that the student chose, from a teacher's states and head."""

import kdtool
import pytest
import torch
from kdtool_torch import chosen_tokens


def lazy(positions: int = 700) -> kdtool.LazyLogits:
    torch.manual_seed(3)
    head = kdtool.Head(torch.randn(40, 8), 37, torch.randn(40), scale=0.7, soft_cap=20.0)
    return kdtool.LazyLogits(torch.randn(positions, 8), head)


def test_they_are_the_logarithms_of_the_softmax_at_the_temperature() -> None:
    teacher, ids = lazy(), torch.randint(0, 37, (700, 5), dtype=torch.int32)
    ids[3, 2:] = -1
    found = chosen_tokens(teacher, kdtool.SignalRequest(frozenset({"chosen"}), (), 2.0, ids))
    expected = (teacher.head.logits(teacher.hidden).double() / 2.0).log_softmax(-1).gather(-1, ids.clamp(min=0).long())
    torch.testing.assert_close(found.log_probabilities, expected.masked_fill(ids < 0, 0).float())
    assert found.ids is ids
    assert found.temperature == 2.0


@pytest.mark.parametrize("ids", [None, torch.zeros(3, 2, dtype=torch.int32)])
def test_a_request_without_a_row_for_each_label_is_refused(ids: torch.Tensor | None) -> None:
    with pytest.raises(kdtool.PluginError, match="one row of token ids for each of 700 labels"):
        chosen_tokens(lazy(), kdtool.SignalRequest(frozenset({"chosen"}), chosen=ids))
