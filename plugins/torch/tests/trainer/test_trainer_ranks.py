"""Two processes give the gradients of one, also where one has hardly any labelled tokens, or none; divided or not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import kdtool
import pytest
import torch
from kdtool_torch.trainer import checkpoint
from kdtool_torch.trainer.parallel import Sharding
from safetensors.torch import load_file
from trainer_models import make_model, make_trainer, reports_of
from trainer_process import (
    start_ranks,
    train_as_rank,
    train_noting,
    train_small,
    train_until_as_rank,
    train_with_a_culprit,
)


def trained(folder: Path, tied: bool, twice: bool, world: int, sharding: str = "off") -> Path:
    folder.mkdir()
    assert start_ranks(train_as_rank, world, folder, tied, twice, sharding) == [0] * world
    return folder


def figures(folder: Path) -> list[float]:
    """Return all that was reported of each step, but for its time."""
    found = []
    for report in reports_of(folder):
        terms = [figure for term in report["terms"].values() for figure in term.values()]
        found += [report[name] for name in ("step", "tokens", "loss", "learning_rate", "gradient_norm")] + terms
    return [-1.0 if figure is None else figure for figure in found]


def same(first: Path, second: Path, name: str) -> None:
    expected, found = load_file(first / name), load_file(second / name)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-7, msg=f"{name}: {key}")


@pytest.mark.slow
@pytest.mark.parametrize(("tied", "twice"), [(False, False), (True, True)])
def test_two_processes_have_the_gradients_weights_and_counts_of_one(tmp_path: Path, tied: bool, twice: bool) -> None:
    """All installed losses are in the repository's test_losses_against_reference."""
    one = trained(tmp_path / "one", tied, twice, 1)
    told = []
    for sharding in ("off", "full"):
        two = trained(tmp_path / sharding, tied, twice, 2, sharding)
        assert (one / "tokens.txt").read_text() == (two / "tokens.txt").read_text()
        same(one, two, "gradients.safetensors")
        same(one, two, "final.safetensors")
        told.append(figures(two))
    assert told[0] == pytest.approx(told[-1], rel=1e-4, abs=1e-7)


def run_ranks(folder: Path, when: str | None, sharding: str = "full") -> list[int]:
    return start_ranks(train_until_as_rank, 2, folder, when, sharding, False)


@pytest.mark.slow
def test_a_divided_phase_that_is_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_ranks(whole, None) == [0, 0]
    for when in ("step 5", "saving 9"):
        assert run_ranks(killed, when) != [0, 0]
    assert run_ranks(killed, None) == [0, 0]
    assert (killed / "final.safetensors").read_bytes() == (whole / "final.safetensors").read_bytes()
    assert figures(killed) == figures(whole)
    # Divided or not, checkpoints are the same: each goes on from the other's.
    shutil.rmtree(killed / "checkpoints" / "checkpoint-12")
    assert run_ranks(killed, None, "off") == [0, 0]
    same(whole, killed, "final.safetensors")


def run_elastic(folder: Path, world: int, when: str | None, sharding: str = "off") -> bool:
    """Run some processes, and return whether they were not killed."""
    return start_ranks(train_until_as_rank, world, folder, when, sharding, True) == [0] * world


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["off", "hybrid"])
def test_a_phase_of_four_processes_goes_on_with_two_and_then_one(tmp_path: Path, sharding: str) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run_elastic(whole, 1, None)
    assert not run_elastic(resumed, 4, "step 5", sharding)
    assert not run_elastic(resumed, 2, "step 11", sharding)
    assert run_elastic(resumed, 1, None, sharding)
    assert figures(resumed) == pytest.approx(figures(whole), rel=1e-4, abs=1e-7)
    same(whole, resumed, "final.safetensors")
    # The step after a checkpoint has the same gradients, whichever number of processes makes it.
    shutil.copytree(whole, tmp_path / "one")
    for name, world in (("one", 1), ("four", 4)):
        if name == "four":
            shutil.copytree(whole, tmp_path / name)
        assert run_elastic(tmp_path / name, world, None, sharding)
    expected, found = (load_file(tmp_path / name / "gradients.safetensors") for name in ("one", "four"))
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-6, atol=1e-6, msg=key)


def test_a_step_that_processes_cannot_share_is_refused() -> None:
    config = make_trainer(batch=2, rows_per_step=8).config
    assert [config.micro_batches(world) for world in (1, 2, 4)] == [4, 2, 1]
    with pytest.raises(kdtool.UsageError, match=r"rows_per_step: 8 is not a multiple of batch: 2 times 3 processes"):
        config.micro_batches(3)
    with pytest.raises(ValueError, match="rows_per_step: 7 is not a multiple of batch: 2"):
        make_trainer(batch=2, rows_per_step=7)
    with pytest.raises(ValueError, match="rows_per_step decides the accumulation"):
        make_trainer(batch=2, rows_per_step=8, accumulation=2)


@pytest.mark.slow
def test_each_process_has_dropout_of_its_own_and_waits_for_any_phases_validation(tmp_path: Path) -> None:
    assert start_ranks(train_noting, 2, tmp_path) == [0, 0]
    for name in ("plain", "validated"):
        files = (tmp_path / f"{name}-{rank}.json" for rank in range(2))
        (first, waits), (second, _) = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        assert first != second
        assert waits == 86_400


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["off", "full"])
def test_the_process_whose_loss_is_not_finite_names_it_and_the_others_wait(tmp_path: Path, sharding: str) -> None:
    assert 0 not in start_ranks(train_with_a_culprit, 2, tmp_path, sharding)
    assert re.match(r"PluginError: loss 'losses.one' .*returned nan at step 2", (tmp_path / "error-1").read_text())
    other = tmp_path / "error-0"
    assert not other.exists() or not other.read_text().startswith(("PluginError", "UsageError"))


def test_a_phase_does_not_go_on_with_another_number_of_processes(tmp_path: Path) -> None:
    train_small(tmp_path, make_model(1))
    progress = tmp_path / "checkpoints" / "checkpoint-12" / "progress.json"
    progress.write_text(progress.read_text().replace('"world": 1', '"world": 2'))
    checkpoint.commit_checkpoint(progress.parent.rename(tmp_path / "checkpoint-12"), tmp_path / "checkpoints")
    with pytest.raises(kdtool.UsageError, match=r"2 processes.* 1"):
        train_small(tmp_path, make_model(1))


def test_with_one_process_there_is_nothing_to_divide(tmp_path: Path) -> None:
    trained = train_small(tmp_path, make_model(1), sharding="full")
    assert any("sharding: full" in note and "one process" in note for note in trained.notes)


def test_a_student_whose_layers_cannot_be_found_is_refused(tmp_path: Path) -> None:
    model = make_model(1)
    model.model.layers.append(torch.nn.Linear(1, 1))
    module = SimpleNamespace(named_parameters=model.model.named_parameters, language_model=model, student=model.model)
    with pytest.raises(kdtool.UsageError, match=r"Blocks has no list of its 2 layers; take sharding: off"):
        Sharding(module, torch.device("cpu"), "full")  # type: ignore[arg-type]
    model.model.packed = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(kdtool.UsageError, match="cannot divide packed"):
        Sharding(module, torch.device("cpu"), "full")  # type: ignore[arg-type]
