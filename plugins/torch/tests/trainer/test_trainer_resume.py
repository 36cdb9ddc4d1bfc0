"""A phase that is killed goes on to the same weights, bit by bit; damaged checkpoints are passed over."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import trainer_models
from kdtool_torch.trainer import checkpoint
from kdtool_torch.trainer import train as train_module
from kdtool_torch.trainer.checkpoint import stored_tensors
from trainer_models import TinyModel, interrupted, make_model, train
from trainer_process import start, train_small, train_until


def process(folder: Path, *when: str, **settings: Any) -> int:
    started = start(partial(train_until, **settings), folder, *(when or (None,)))
    started.join(120)
    assert when or started.exitcode == 0
    return int(started.exitcode)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    process(folder)
    return folder


def reports_of(folder: Path) -> list[dict[str, Any]]:
    return [{**report, "seconds": 0, "memory": 0} for report in trainer_models.reports_of(folder)]


WATCHED = {"every": 1, "evaluators": ("wave",), "watch": "wave.height", "patience": 4}
KILLED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "once": ({}, ("step 7",)),
    "on text of the student's own": ({"on_policy": {"fraction": 0.5, "tokens": 6}}, ("step 5", "saving 9")),
    "validated": ({"validation": WATCHED}, ("step 4", "saving 9", "step 11")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", KILLED)
def test_a_killed_phase_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path, case: str) -> None:
    settings, kills = KILLED[case]
    whole, killed = tmp_path / "whole" if settings else uninterrupted, tmp_path / "killed"
    if settings:
        process(whole, **settings)
    for when in kills:
        assert process(killed, when, **settings) != 0
    process(killed, **settings)
    assert (killed / "final.safetensors").read_bytes() == (whole / "final.safetensors").read_bytes()
    assert reports_of(killed) == reports_of(whole)
    assert [report["step"] for report in reports_of(killed)] == list(range(1, len(reports_of(killed)) + 1))
    said = (whole / "tokens.txt").read_text(encoding="utf-8")
    assert (killed / "tokens.txt").read_text(encoding="utf-8") == said
    if case == "on text of the student's own":
        assert "of 28 micro-batches on-policy" in said
        assert "on_policy: 0 " not in said
    if case == "validated":
        heights = [report["metrics"]["wave.height"] for report in reports_of(whole)]
        best = heights.index(max(heights)) + 1
        assert f"wave.height was best after step {best} " in said
        assert len(heights) == min(14, best + 4)


@pytest.mark.slow
def test_validation_that_nothing_depends_on_changes_no_bit(uninterrupted: Path, tmp_path: Path) -> None:
    process(tmp_path, validation={"every": 1, "evaluators": ("wave",)})
    assert (tmp_path / "final.safetensors").read_bytes() == (uninterrupted / "final.safetensors").read_bytes()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_damaged_checkpoints_are_named_and_training_goes_on_before_them(uninterrupted: Path, tmp_path: Path) -> None:
    assert process(tmp_path, "step 10") != 0
    flip(next((tmp_path / "checkpoints" / "checkpoint-9").glob("*.safetensors")))
    process(tmp_path)
    assert (tmp_path / "final.safetensors").read_bytes() == (uninterrupted / "final.safetensors").read_bytes()
    assert reports_of(tmp_path) == reports_of(uninterrupted)


def test_frozen_weights_are_in_no_checkpoint_and_stay(tmp_path: Path) -> None:
    def student() -> TinyModel:
        model = make_model(1, dropout=0.2)
        model.model.embedding.requires_grad_(False)
        model.model.register_buffer("seen", torch.ones(2))
        return model

    first, second = student(), student()
    start = first.model.embedding.weight.detach().clone()
    train_small(tmp_path / "first", first)
    assert first.model.embedding.weight.equal(start)
    assert first.model.embedding.weight.grad is None
    newest = tmp_path / "first" / "checkpoints" / "checkpoint-12"
    learning = {f"student.{name}" for name, weight in first.model.named_parameters() if weight.requires_grad}
    learning |= {f"loss_modules.losses/hidden.{name}" for name in ("weight", "bias")}
    moments = {f"optimizer.{name}.{key}" for name in learning for key in ("step", "exp_avg", "exp_avg_sq")}
    assert stored_tensors(newest).keys() == {*learning, "student.seen", *moments}
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    train_small(tmp_path / "second", second)  # goes on from step 12
    for name, parameter in first.model.named_parameters():
        assert parameter.equal(second.model.get_parameter(name)), name


def test_a_checkpoint_of_another_student_is_not_opened(tmp_path: Path) -> None:
    train_small(tmp_path, make_model(1))
    other = make_model(1)
    other.model.layers.requires_grad_(False)
    with pytest.raises(
        kdtool.StorageError, match=r"checkpoint-12 belongs to another student: only one has student\.layers\.0\.bias"
    ):
        train_small(tmp_path, other)


def make_checkpoint(root: Path, step: int) -> Path:
    folder = checkpoint.start_writing(root) / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "weights").write_text(f"weights at {step}", encoding="utf-8")
    return checkpoint.commit_checkpoint(folder, root)


def test_a_folder_of_the_same_step_is_replaced_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 10):
        make_checkpoint(tmp_path, step)
    checkpoint.rotate_checkpoints(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-9"]


def test_a_phase_does_not_go_on_in_another_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"steps": 8, "batch": 2, "checkpoint_every": 2, "dtype": "auto"}
    monkeypatch.setattr(train_module, "chosen_dtype", lambda *_: torch.float16)  # as `auto` on another machine
    with interrupted(after=5):
        train(tmp_path, make_model(1), **settings)
    monkeypatch.setattr(train_module, "chosen_dtype", lambda *_: torch.bfloat16)
    words = r"started in float16 and cannot resume in bfloat16, .*checkpoints$"
    with pytest.raises(kdtool.UsageError, match=words):
        train(tmp_path, make_model(1), **settings)
