"""Tensors of a checkpoint come back whole, however many ranks wrote them and however many read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kdtool_torch.trainer.checkpoint import load_state, own_state, stored_tensors
from trainer_process import start_ranks
from trainer_states import WHOLE, read_as_rank, write_as_rank


@pytest.fixture(params=[(4, True), (3, False), (1, False)], ids=["4 hybrid", "3", "1"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    world, hybrid = request.param
    assert start_ranks(write_as_rank, world, tmp_path, hybrid) == [0] * world
    return tmp_path


@pytest.mark.parametrize(("world", "hybrid"), [(4, True), (2, False)])
def test_any_number_of_ranks_reads_what_another_wrote(written: Path, world: int, hybrid: bool) -> None:
    assert stored_tensors(written).keys() == WHOLE.keys()
    assert start_ranks(read_as_rank, world, written, hybrid) == [0] * world
    alone = {name: torch.zeros_like(tensor) for name, tensor in WHOLE.items()}
    load_state(written, alone)
    assert all(torch.equal(alone[name], tensor) for name, tensor in WHOLE.items())


@pytest.mark.parametrize("copy", [True, False])
def test_a_copy_is_not_what_training_changes_later(tmp_path: Path, copy: bool) -> None:
    weight = torch.ones(3)
    state = own_state({"weight": weight}, 0, copy=copy)
    weight.zero_()
    state.write(tmp_path)
    load_state(tmp_path, {"weight": weight})
    assert weight.tolist() == [copy] * 3


def test_another_shape_is_refused(tmp_path: Path) -> None:
    own_state({"weight": torch.ones(3)}, 0, copy=False).write(tmp_path)
    with pytest.raises(ValueError, match=r"weight has the shape \(3,\) in .*, and \(4,\) here"):
        load_state(tmp_path, {"weight": torch.ones(4)})
    with pytest.raises(KeyError, match="bias"):
        load_state(tmp_path, {"bias": torch.ones(4)})
