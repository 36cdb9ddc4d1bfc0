"""Two processes give the gradients of one, also where one has hardly any labelled tokens, or none."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from trainer_process import start, train_as_rank


def trained(folder: Path, world: int, on_policy: Any = None) -> tuple[dict[str, torch.Tensor], str]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(train_as_rank, folder, on_policy, rank, world, port) for rank in range(world)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world
    return load_file(folder / "gradients.safetensors"), (folder / "tokens.txt").read_text(encoding="utf-8")


def test_two_processes_have_the_gradients_and_counts_of_one(tmp_path: Path) -> None:
    """With a tied head and two passes; all installed losses are in the repository's test_losses_against_reference."""
    one, tokens_of_one = trained(tmp_path / "one", 1)
    two, tokens_of_two = trained(tmp_path / "two", 2)
    assert tokens_of_one == tokens_of_two
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_two_processes_learn_each_on_what_its_student_writes(tmp_path: Path) -> None:
    """Among the rows are such without a label, of which nothing is written."""
    on_policy = {"fraction": 1.0, "tokens": 3}
    first, tokens = trained(tmp_path / "first", 2, on_policy)
    again, tokens_again = trained(tmp_path / "again", 2, on_policy)
    assert tokens == tokens_again
    assert int(tokens) > 0
    for name, gradient in first.items():
        assert gradient.isfinite().all()
        assert again[name].equal(gradient), name
